"""The whole visit, rehearsed without a GPU: what CI knows of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_parts import PART_BYTES, join
from visit_plan import STAGES

VISIT = Path(__file__).with_name("visit.py")


def rehearsed(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and the results by stage."""
    command = [sys.executable, str(VISIT), "--rehearse", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    stored = json.loads((out / "results.json").read_text())
    return done.returncode, {result["stage"]: result for result in stored["stages"]}


@pytest.mark.parametrize(
    "names",
    [
        ["machine", "pack", "operator", "codec", "train"],
        pytest.param([stage.name for stage in STAGES], marks=pytest.mark.slow),
    ],
    ids=["without kernels", "all"],
)
def test_stages_run_without_a_gpu(tmp_path: Path, names: list[str]) -> None:
    status, results = rehearsed(tmp_path, "--budget-s", "1200", "--only", ",".join(names))
    told = {name: (result["state"], result["reason"]) for name, result in results.items()}
    assert status == 0, told
    assert list(results) == names
    # On machines that the emulation's compiler has no wheels for, what needs it is left out.
    assert {state for state, _ in told.values()} <= {"passed", "not carried"}
    for name in ("machine", "pack", "codec", "train"):
        assert told[name] == ("passed", "")
    assert results["codec"]["facts"]["frames"] == "the pack's frames"
    phase = results["train"]["facts"]["training"]["phases"][0]
    assert phase["steps"] > 0
    files = list(tmp_path.iterdir())
    assert len(files) <= 8
    assert max(file.stat().st_size for file in files) <= PART_BYTES
    assert join(tmp_path).name == "average.pt"
    table = (tmp_path / "summary.md").read_text()
    assert "a rehearsal without a GPU" in table
    for name in names:
        assert f"| **{name}** |" in table


@pytest.fixture
def altered_pack(tmp_path: Path) -> Path:
    """A pack of which one byte is another."""
    whole, pack = tmp_path / "whole", tmp_path / "pack"
    code = (
        "from pathlib import Path; from rehearsal_pack import *\n"
        f"o = Orders('pack', *[Path({str(whole)!r})] * 3, 60, True, 'edge', None, None, None)\n"
        "rehearsal_pack(o)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=VISIT.parent, check=True, capture_output=True)
    shutil.copytree(whole / "pack", pack)
    part = pack / "part-0.tar"
    data = bytearray(part.read_bytes())
    data[2000] ^= 1
    part.write_bytes(data)
    return pack


def test_a_pack_with_a_wrong_hash_is_one_line_and_the_rest_goes_on(
    tmp_path: Path, altered_pack: Path
) -> None:
    status, results = rehearsed(
        tmp_path / "out", "--only", "pack,codec,train", "--pack", str(altered_pack)
    )
    assert status == 2
    line = f"{altered_pack / 'part-0.tar'} has another SHA-256 than pack.json says: copy it again"
    assert (results["pack"]["state"], results["pack"]["reason"]) == ("failed", line)
    assert results["codec"]["state"] == "passed"
    assert results["codec"]["facts"]["frames"] == (
        f"the built-in rig's frames, since the pack cannot be used: {line}"
    )
    assert results["train"]["state"] == "failed"
    assert line in results["train"]["reason"]


def test_without_a_gpu_each_stage_says_so_and_all_are_tried(tmp_path: Path) -> None:
    from dsin.runtime.errors import BackendError
    from dsin.runtime.gpu.cuda_driver import chosen_device

    try:
        chosen_device()
    except BackendError as error:
        reason = f"no GPU to use: {error}"
    else:
        pytest.skip("there is a GPU")
    command = [
        sys.executable, str(VISIT), "--out", str(tmp_path), "--budget-s", "200",
        "--only", "machine,kernels,sanitizer,ort_cuda,train",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert {one["stage"]: (one["state"], one["reason"]) for one in stored["stages"]} == {
        "machine": ("failed", reason), "kernels": ("failed", reason),
        "sanitizer": ("failed", reason), "train": ("failed", reason),
        "ort_cuda": (
            "not carried", "onnxruntime-gpu: no wheels were given, --wheels DIR names them"
        ),
    }  # fmt: skip
    assert done.returncode == 4
