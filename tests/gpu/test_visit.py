"""A visit to a GPU: how it divides its time, and what is left of it when things go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import visit
import visit_plan
from visit_child import last_line, run_child, shorten
from visit_layout import CHECKOUT, bundles, environment, lay_out
from visit_plan import STAGES, Stage, chosen, seconds_for
from visit_results import Results, exit_status, summary

HERE = Path(__file__).parent
GOOD = 'def work(orders, report):\n    report.check("one", True, "fine")'
BAD = """
def work(orders, report):
    report.check("one", True)
    report.check("two", False, "3 | 4")
"""
RAISES = 'def work(orders, report):\n    raise UnfitError("no GPU to use:\\n there is none")'
HANGS = """
def work(orders, report):
    report.check("before", True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (orders.out / "child").write_text(str(child.pid))
    time.sleep(600)
"""
DIES = 'def work(orders, report):\n    print("about to die")\n    os.kill(os.getpid(), 11)'
NOTHING = "def work(orders, report):\n    pass"
NOT_CARRIED = 'def work(orders, report):\n    raise NotCarriedError("no wheel of it")'


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    """Makes a stage of a program's text."""

    def make(name: str, text: str, limit_s: float = 60, trains: bool = False) -> Stage:
        program = tmp_path / f"{name}.py"
        program.write_text(
            "import os, subprocess, sys, time\n"
            f"from stage import NotCarriedError, UnfitError, run\n{text}\nrun(work)\n"
        )
        return Stage(name, f"what {name} proves", limit_s, trains, program)

    return make


def visited(out: Path, *stages: Stage, budget_s: float = 100) -> tuple[int, dict[str, Any]]:
    """Exit status, and the results by stage."""
    given = visit.options(["--out", str(out), "--budget-s", str(budget_s), "--commit", "abc"])
    status = visit.visit(given, stages)
    stored = json.loads((out / "results.json").read_text())
    return status, {result["stage"]: result for result in stored["stages"]}


# Order and time.


def test_stages_come_in_order_of_value_and_training_last() -> None:
    assert [stage.name for stage in STAGES] == [
        "machine", "pack", "kernels", "sanitizer", "timing", "operator", "codec", "ort_cuda",
        "tensorrt_rtx", "train",
    ]  # fmt: skip
    assert [stage.name for stage in STAGES if stage.trains] == ["train"]
    assert all(stage.path.is_file() for stage in STAGES)


def test_some_stages_alone_keep_their_order() -> None:
    assert [stage.name for stage in chosen("train, kernels")] == ["kernels", "train"]
    assert chosen(None) == STAGES
    with pytest.raises(ValueError, match="no stage 'kernel': use some of machine, pack, kernels"):
        chosen("kernel")
    with pytest.raises(ValueError, match="names no stage"):
        chosen(" ,")


def test_proofs_share_150_seconds_and_training_gets_the_rest_but_20() -> None:
    proof, train = Stage("a", "", 60), Stage("t", "", float("inf"), trains=True)
    assert seconds_for(proof, proved_s=0, left_s=780) == 60
    assert seconds_for(proof, proved_s=110, left_s=600) == 40
    assert seconds_for(proof, proved_s=147, left_s=600) is None
    assert seconds_for(proof, proved_s=0, left_s=50) == 30
    assert seconds_for(proof, proved_s=0, left_s=24) is None
    assert seconds_for(train, proved_s=150, left_s=630) == 610
    assert seconds_for(proof, proved_s=150, left_s=780, patience=4) == 240


def test_a_stage_without_time_is_not_begun(tmp_path: Path, stage: Any) -> None:
    status, results = visited(tmp_path / "out", stage("late", GOOD), budget_s=21)
    assert status == 1
    assert results["late"]["state"] == "out of time"
    assert results["late"]["checks"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "there is no stage 'nothing'"),
        (["--budget-s", "nan"], "must be above 0"),
        (["--budget-s", "-1"], "must be above 0"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        visit.options(["--out", "out", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


# What goes wrong.


def test_whatever_becomes_of_a_stage_the_others_run(tmp_path: Path, stage: Any) -> None:
    out = tmp_path / "out"
    status, results = visited(
        out, stage("good", GOOD), stage("bad", BAD), stage("raises", RAISES),
        stage("hangs", HANGS, 6), stage("dies", DIES), stage("nothing", NOTHING),
        stage("absent", NOT_CARRIED), stage("last", GOOD),
    )  # fmt: skip
    assert status == 5
    assert {name: (result["state"], result["reason"]) for name, result in results.items()} == {
        "good": ("passed", ""),
        "bad": ("failed", "two failed"),
        "raises": ("failed", "no GPU to use: there is none"),
        "hangs": ("timed out", "killed at its limit of 6 s, after 1 checks"),
        "dies": ("killed", "killed by SIGSEGV; it last said: about to die"),
        "nothing": ("failed", "the stage checked nothing"),
        "absent": ("not carried", "no wheel of it"),
        "last": ("passed", ""),
    }
    assert results["hangs"]["checks"] == [{"name": "before", "ok": True, "value": ""}]
    assert results["hangs"]["seconds"] < 20
    assert gone(int((out / "child").read_text()))
    assert {file.name for file in out.iterdir()} == {
        "child", "results.json", "summary.md", "visit.log"
    }  # fmt: skip
    assert "about to die" in (out / "visit.log").read_text()


def test_a_program_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    lost = Stage("lost", "", 10, program=tmp_path / "none.py")
    status, results = visited(tmp_path / "out", lost)
    assert status == 1
    assert results["lost"]["reason"].startswith("ended with status 2: ")


def gone(process: int) -> bool:
    """Whether a process ended, within a few seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_visit_that_is_killed_loses_the_stage_it_was_in(
    tmp_path: Path, stage: Any, number: int
) -> None:
    out = tmp_path / "out"
    stages = [stage("good", GOOD), stage("hangs", HANGS)]
    program = f"""
import sys; sys.path.insert(0, {str(HERE)!r}); sys.argv[1:] = ["--out", {str(out)!r}]
import visit; from pathlib import Path; from visit_plan import Stage
visit.visit_plan.chosen = lambda _: [
    Stage(n, "", 60, program=Path(p)) for n, p in {[(s.name, str(s.path)) for s in stages]!r}]
visit.main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while not (out / "child").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        told, _ = process.communicate(timeout=30)
    stages_stored = json.loads((out / "results.json").read_text())["stages"]
    stored = {result["stage"]: result["state"] for result in stages_stored}
    assert stored["good"] == "passed"
    assert gone(int((out / "child").read_text()))
    if number == signal.SIGKILL:
        # What the stage knew is there all the same.
        assert json.loads((out / "running.json").read_text())["checks"][0]["name"] == "before"
    else:
        assert process.returncode == 1
        assert f"ended by SIGTERM; what was found until then is in {out}" in told
        assert stored["hangs"] == "cut off"


def test_a_second_call_adds_to_the_results_of_the_first(tmp_path: Path, stage: Any) -> None:
    out = tmp_path / "out"
    assert visited(out, stage("kernels", BAD), stage("codec", GOOD))[0] == 1
    status, results = visited(out, stage("kernels", GOOD), stage("train", GOOD, trains=True))
    assert status == 0
    assert list(results) == ["kernels", "codec", "train"]
    assert {result["state"] for result in results.values()} == {"passed"}


# Files.


def test_the_exit_status_counts_failures_up_to_125() -> None:
    failed, fine = {"state": "timed out"}, {"state": "refused"}
    assert exit_status([failed, fine, {"state": "not carried"}, {"state": "passed"}]) == 1
    assert exit_status([failed] * 300) == 125


def test_the_summary_is_a_table(tmp_path: Path) -> None:
    results = Results(tmp_path, {"date": "2030-01-02", "commit": "abc"}, ["machine", "kernels"])
    line = {"reason": "", "seconds": 1.234, "date": ""}
    kernels = {
        "stage": "kernels", "state": "failed", **line, "facts": {}, "reason": "two failed",
        "checks": [
            {"name": "one", "ok": True, "value": "a\nb"},
            {"name": "two", "ok": False, "value": "3 | 4"}, {"name": "t", "ok": None, "value": "5"},
        ],
    }  # fmt: skip
    facts = {"gpu": "H100", "driver": "580.1"}
    results.add(kernels)
    results.add({"stage": "machine", "state": "passed", **line, "facts": facts, "checks": []})
    written = (tmp_path / "summary.md").read_text()
    assert (
        written
        == """\
### 2030-01-02, H100, driver 580.1, commit abc

| stage | check | result | measured |
|---|---|---|---|
| **machine** |  | **passed** | (1.2 s) |
| **kernels** |  | **failed** | two failed (1.2 s) |
|  | one | passed | a b |
|  | two | failed | 3 \\| 4 |
|  | t |  | 5 |
"""
    )
    assert "a rehearsal" in summary({"date": "", "commit": "", "rehearsal": True}, [])


def test_a_damaged_file_of_an_earlier_call_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{cut o")
    assert Results(tmp_path, {"date": "", "commit": ""}, []).stages == []


def test_the_middle_of_a_long_log_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n" + "a" * 500 + "\n" + "b" * 500 + "\nlast\n")
    shorten(log, 7, 2000)
    assert log.stat().st_size == 1014
    shorten(log, 7, 20)
    assert log.read_text() == "before\n" + "a" * 10 + "\n[… 987 bytes left out …]\nbbbb\nlast\n"
    assert last_line(log, 0) == "last"
    assert last_line(log, log.stat().st_size) == ""


def test_what_a_child_left_running_is_ended(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)']); print(p.pid, flush=True)"
    )
    log = tmp_path / "log"
    ended = run_child([sys.executable, "-c", program], log, 60, os.environ, tmp_path)
    assert ended.status == 0
    assert gone(int(last_line(log, 0)))


# The package.


def test_the_package_is_found_without_being_installed(tmp_path: Path) -> None:
    lay_out(tmp_path / "site")
    code = (
        "import dsin.runtime, dsin.training, importlib.metadata as m; "
        "print(dsin.runtime.__file__, m.version('dsin'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path / "site", tmp_path / "cache"),
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout.split()  # fmt: skip
    assert found == [str(tmp_path / "site" / "dsin" / "runtime" / "__init__.py"), "0.1.0"]


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no checkout of dsin: it has no calibration/"):
        lay_out(tmp_path / "site", tmp_path)


def test_bundles_may_be_missing(tmp_path: Path) -> None:
    assert bundles(tmp_path) == []
    assert "edge" in bundles(CHECKOUT)


def test_visit_knows_nothing_of_dsin_before_that() -> None:
    code = "import sys, visit; print(*{m.split('.')[0] for m in sys.modules} & {'dsin', 'torch'})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
    assert visit_plan.HERE == HERE
