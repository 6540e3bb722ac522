"""What stages say when what they need is not there, and what they make of other programs' words."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import stage
import stage_sanitizer
import stage_train
from carried_wheels import install, wheel_of
from checkpoint_parts import join
from stage import (
    Gpu,
    NotCarriedError,
    Orders,
    Report,
    UnfitError,
    need_gpu,
    one_line,
    unfit_because,
)
from stage_sanitizer import verdict
from stage_train import Keeper, newest, phase_in_words, training_command
from support.cuda_emulation import worker
from visit_frames import frames, middle

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import chosen_device


@pytest.fixture
def orders(tmp_path: Path) -> Any:
    """Makes orders with some changed."""

    def make(**changed: Any) -> Orders:
        given: dict[str, Any] = {
            "stage": "some", "out": tmp_path, "result": tmp_path / "result.json",
            "work": tmp_path / "work", "limit_s": 100.0, "rehearse": False, "preset": "edge",
            "pack": None, "start_from": None, "wheels": None,
        }  # fmt: skip
        (tmp_path / "work").mkdir(exist_ok=True)
        return Orders(**{**given, **changed})

    return make


def test_orders_come_back_from_their_file(orders: Any, tmp_path: Path) -> None:
    given = orders(pack=tmp_path / "pack")
    given.write(tmp_path / "orders.json")
    assert Orders.read(tmp_path / "orders.json") == given


# The GPU.


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (Gpu((13, 0), (13, 2), 70, 80), None),
        (Gpu((13, 0), (12, 6), 70, 80), None),
        (Gpu((12, 4), (13, 0), 70, 80), "the driver is too old: it serves CUDA 12.4, and kernels"),
        (Gpu((13, 0), (13, 0), 1.25, 80), "too little memory: 1.2 of the GPU's 80.0 GiB are free"),
    ],
)
def test_a_gpu_that_will_not_do_is_one_line(gpu: Gpu, reason: str | None) -> None:
    found = unfit_because(gpu, least_gib=4)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(reason)
        assert "\n" not in found


def test_no_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Gpu:
        raise BackendError("there is no CUDA driver here: install NVIDIA's")

    monkeypatch.setattr(stage, "_gpu", missing)
    with pytest.raises(UnfitError) as caught:
        need_gpu(2)
    assert str(caught.value) == (
        "no GPU to use: there is no CUDA driver here: install NVIDIA's"
    )  # fmt: skip


def test_errors_of_others_are_named_by_their_kind() -> None:
    assert one_line(ZeroDivisionError("by\nzero")) == "ZeroDivisionError: by zero"
    assert one_line(BackendError("install NVIDIA's")) == "install NVIDIA's"
    assert one_line(UnfitError("too old")) == "too old"


def test_a_part_that_raises_does_not_end_the_stage(orders: Any, tmp_path: Path) -> None:
    report = Report(orders())
    with report.part("the first"):
        raise MemoryError("out of it")
    report.check("the second", True)
    assert (report.failed, report.passed) == (["the first"], 1)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["checks"][0]["value"] == "MemoryError: out of it"


# compute-sanitizer.


CLEAN = """========= COMPUTE-SANITIZER
========= ERROR SUMMARY: 0 errors
"""
WRITES = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at describe+0x70
========= ERROR SUMMARY: 32 errors
"""
RACES = """========= COMPUTE-SANITIZER
========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)
"""


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, CLEAN, (True, "0 errors")),
        (0, RACES, (True, "0 hazards displayed (0 errors, 0 warnings)")),
        (99, WRITES, (False, "status 99: 32 errors; Invalid __global__ write of size 4 bytes")),
        (1, CLEAN + "y_syn differs\n", (False, "status 1: 0 errors; y_syn differs")),
        (0, "", (False, "status 0: nothing more is said")),
        (2, "========= Error: Device not supported\n",
         (False, "status 2: Error: Device not supported")),
    ],
)  # fmt: skip
def test_what_the_sanitizer_says(status: int, output: str, expected: tuple[bool, str]) -> None:
    assert verdict(status, output) == expected


@pytest.fixture
def emulated() -> Iterator[Any]:
    # For one test at a time: child processes of others would inherit the driver.
    with worker() as pool:
        yield pool


def sanitizer_case() -> None:
    """Run as the sanitizer runs it."""
    with mock.patch.object(sys, "argv", ["sanitizer_case.py", "40", "48"]):
        runpy.run_path(str(Path(stage.__file__).with_name("sanitizer_case.py")), None, "__main__")


def test_the_sanitizers_case_runs_all_kernels_and_ends_well(emulated: Any) -> None:
    emulated.submit(sanitizer_case).result()


def test_a_gpu_that_will_do_is_told(emulated: Any) -> None:
    found = emulated.submit(need_gpu, 2.0).result()
    assert found == Gpu((13, 0), (13, 0), 6.0, 8.0)
    with pytest.raises(UnfitError, match=r"too little memory: 6.0 of the GPU's 8.0 GiB are free"):
        emulated.submit(need_gpu, 7.0).result()


def test_a_sanitizer_that_hangs_fails_its_check(orders: Any, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nsleep 60\n")
    tool.chmod(0o755)
    report = Report(orders())
    stage_sanitizer.check(report, str(tool), "memcheck", 0.5)
    assert report.failed == ["memcheck"]


# The project's tests.


BLOCKS = "runtime/patch_correlation/test_block_cuda.py"


def test_tests_that_skip_have_proved_nothing(orders: Any, tmp_path: Path) -> None:
    """Those of the GPU all skip where there is none."""
    try:
        chosen_device()
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU")
    orders().write(tmp_path / "orders.json")
    program = tmp_path / "stage_some.py"
    program.write_text(
        "from stage import run\nfrom suite import run_tests\n"
        f"run(lambda o, r: run_tests(o, r, [{BLOCKS!r}], rehearsed='', several=False))"
    )
    folders = [str(Path(stage.__file__).parent), str(Path(stage.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "orders.json")], capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *sys.path])},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr.decode()
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["state"], written["reason"]) == ("failed", f"{BLOCKS} failed")
    (check,) = written["checks"]
    assert re.match(
        r"0 passed, \d+ failed; first: \S+/test_block_cuda.py::.* skipped: Skipped: no GPU: ",
        check["value"],
    )


# Wheels and frames.


def test_wheels_that_were_not_carried_are_named(orders: Any, tmp_path: Path) -> None:
    with pytest.raises(NotCarriedError, match=r"onnxruntime-gpu: no wheels were given"):
        install(orders(), "onnxruntime-gpu")
    (tmp_path / "onnxruntime_gpu-1.30.0-cp312.whl").touch()
    (tmp_path / "onnxruntime_gpu-1.31.0-cp312.whl").touch()
    assert wheel_of(tmp_path, "onnxruntime-gpu").name == "onnxruntime_gpu-1.31.0-cp312.whl"
    with pytest.raises(NotCarriedError, match=r"tensorrt-cu13-bindings: .* has no wheel of it"):
        wheel_of(tmp_path, "tensorrt-cu13-bindings")


def test_a_wheel_that_does_not_install_is_one_line(orders: Any, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime_gpu-1.31.0-cp27-cp27m-win32.whl").touch()
    with pytest.raises(UnfitError, match=r"pip does not install the wheels: ERROR: .*not a supp"):
        install(orders(wheels=tmp_path), "onnxruntime-gpu")


def test_without_a_pack_frames_are_the_rigs_and_say_so(tmp_path: Path) -> None:
    found = frames(None, 2)
    assert found.source == "the built-in rig's frames, since no pack was given"
    assert [x.shape for x, _ in found.pairs] == [(375, 1242, 3)] * 2
    broken = frames(tmp_path, 1)
    assert broken.source.startswith("the built-in rig's frames, since the pack cannot be used: ")


def test_the_middle_of_smaller_frames_is_scaled_up() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 15:45] = 200
    assert middle(image, 20, 30).tolist() == image[10:30, 15:45].tolist()
    assert middle(image, 320, 1224).shape == (320, 1224, 3)


# Training.


def test_training_is_the_products_command(orders: Any, tmp_path: Path) -> None:
    given = orders(pack=tmp_path / "pack", start_from=tmp_path / "edge.pt", preset="edge_tune")
    command = training_command(given, tmp_path / "run", tmp_path / "train.json", 590.4)
    assert command[1:] == [
        "-m", "dsin.runtime.commands.cli", "train", "edge_tune", "--pack", str(tmp_path / "pack"),
        "--out", str(tmp_path / "run"), "--budget-s", "590", "--resume",
        "--json", str(tmp_path / "train.json"), "--start-from", str(tmp_path / "edge.pt"),
    ]  # fmt: skip


def test_without_a_pack_there_is_nothing_to_train_on(orders: Any, tmp_path: Path) -> None:
    with pytest.raises(NotCarriedError, match="no pack was given to train on"):
        training_command(orders(), tmp_path, tmp_path, 10)


def test_the_newest_small_checkpoint_is_carried(orders: Any, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    keeper = Keeper(run, out, Report(orders()))
    keeper.look()
    assert keeper.carried is None
    for phase in ("codec", "joint"):
        (run / phase).mkdir(parents=True)
        (run / phase / "average.pt").write_bytes(phase.encode())
        (run / phase / "last.ckpt").write_bytes(b"large")
        keeper.look()
        assert join(out).read_bytes() == phase.encode()
    assert keeper.carried == "joint/average.pt, 0.0 MiB in 1 parts"
    assert newest(run) == run / "joint" / "average.pt"


def test_a_checkpoint_that_is_too_large_is_told(
    orders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_train, "split", lambda source, out: join(out))
    report = Report(orders())
    (tmp_path / "final.pt").write_bytes(b"weights")
    keeper = Keeper(tmp_path, tmp_path, report)
    keeper.look()
    assert keeper.carried is None
    (told,) = json.loads((tmp_path / "result.json").read_text())["checks"]
    assert "has no usable checkpoint.json" in told["value"]


def test_figures_of_a_phase_in_words() -> None:
    figures = {
        "steps": 1200, "steps_per_s": 101.26, "step_ms_p50": 9.5, "share_outside_step": 0.0123,
        "gpu_utilisation": None, "history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}],
        "validation": [],
    }  # fmt: skip
    assert phase_in_words(figures) == (
        "1200 steps, 101.3 steps a second, 9.50 ms a step, 1.2% outside of steps, "
        "loss 2.0000 to 1.5000"
    )
    assert phase_in_words({}) == "no figures"
