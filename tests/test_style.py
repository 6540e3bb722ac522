"""Lint and types, on the package as it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import interruptible

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("calibration", "export", "runtime", "tests", "training")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_ruff_is_clean(check: tuple[str, ...]) -> None:
    if shutil.which("ruff", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("ruff is not installed")
    run(sys.executable, "-m", "ruff", *check, ".")


def test_mypy_strict_is_clean(tmp_path: Path) -> None:
    if shutil.which("mypy", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mypy is not installed")
    run(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path))


def test_benchmarks_are_typed(tmp_path: Path) -> None:
    """They are scripts beside each other, and run too seldom to find out otherwise."""
    if shutil.which("mypy", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mypy is not installed")
    folder = ROOT / "tests" / "benchmarks"
    command = [sys.executable, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", tmp_path]
    done = subprocess.run(
        [*command, *sorted(folder.glob("*.py"))], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MYPYPATH": f"{ROOT / 'tests'}:{folder}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_children_run_no_python_between_fork_and_exec() -> None:
    """gRPC may have run in the parent, and then they crash now and then."""
    name = "preexec" + "_fn"
    ours = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(ours) > 200
    assert [path.name for path in ours if f"{name}=" in path.read_text("utf-8")] == []


def test_an_interruptible_child_heeds_interrupts_that_its_parent_ignores() -> None:
    shown = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    child = interruptible(sys.executable, "-c", shown)
    program = (
        "import signal, subprocess; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"subprocess.run({child!r}, check=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
