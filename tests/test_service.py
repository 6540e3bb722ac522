"""The systemd unit of the device's half."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[1] / ".docs" / "dsin-stream.service"


def complaints(unit: str, folder: Path) -> str:
    """What systemd says about a unit, with a program that exists in the place of dsin."""
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    path = folder / UNIT.name
    path.write_text(unit.replace("/opt/dsin/bin/dsin", shutil.which("true") or "/bin/true"))
    done = subprocess.run([analyze, "verify", path], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if UNIT.stem in line]
    return "\n".join(said) or ("" if done.returncode == 0 else done.stderr)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    assert complaints(UNIT.read_text(), tmp_path) == ""


def test_systemd_notices_a_wrong_unit(tmp_path: Path) -> None:
    wrong = UNIT.read_text().replace("RestartSec=5", "RestartSec=soon")
    assert "soon" in complaints(wrong, tmp_path)
