"""The package works with the oldest packages that it names, and with the newest that there are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
UV = shutil.which("uv", path=str(Path(sys.executable).parent))


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lower_bounds() -> dict[str, str]:
    """Of the packages that a device and a server need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["cpu"], *extras["serve"], *extras["video"]]
    return dict(entry.split(">=") for entry in named if ">=" in entry)


def test_every_package_has_a_lower_bound() -> None:
    bounds = lower_bounds()
    assert len(bounds) == 18
    # Older ones broke: with click 8.2 and later, and with health checking's own messages.
    assert (bounds["typer"], bounds["protobuf"]) == ("0.18", "5.27.2")


@pytest.mark.skipif(UV is None, reason="uv is not installed")
@pytest.mark.skipif(
    os.environ.get("DSIN_BOUNDS") != "1",
    reason="two fresh environments and their kernels take two minutes: set DSIN_BOUNDS=1",
)
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_a_fresh_environment_works(resolution: str, tmp_path: Path) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    run(UV, "venv", "-q", "--python", sys.executable, tmp_path / "environment")
    run(UV, "pip", "install", "-q", "--python", python, "--resolution", resolution,
        f"{ROOT}[cpu,serve]")  # fmt: skip
    printed = run(python, ROOT / "tests" / "bounds" / "smoke.py", cwd=tmp_path)
    assert printed.splitlines()[-1] == "ok"
    if resolution != "lowest-direct":
        return
    found = dict(re.findall(r"([a-z-]+) ([0-9][0-9.]*)", printed.splitlines()[0]))
    for package, bound in lower_bounds().items():
        assert (found[package] + ".0.0").startswith(bound), (package, found[package], bound)
