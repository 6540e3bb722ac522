"""The systemd unit of the device's half."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import command_line

from dsin.runtime.sources.capture_device import parse_camera_spec

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


PAGE = UNIT.with_name("jetson.md")
SETTINGS = {
    "DSIN_SERVER": "server.example.org:7443", "DSIN_RIG": "front",
    "DSIN_SOURCE": "gst:nvarguscamerasrc ! appsink drop=true", "DSIN_BUNDLE": "edge",
    "DSIN_BACKEND": "tensorrt-fp16", "DSIN_KBPS": "500", "DSIN_OPTIONS": "",
}  # fmt: skip
CREDENTIALS = ["--ca", "/c/ca.pem", "--cert", "/c/rig.pem", "--key", "/c/rig.key"]


def started(settings: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What the unit runs, with a program in the place of dsin that prints its arguments."""
    lines = UNIT.read_text().replace("\\\n", " ").splitlines()
    (command,) = (line.removeprefix("ExecStart=") for line in lines if line[:10] == "ExecStart=")
    assert "%" not in command
    stand_in = folder / "dsin"
    stand_in.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    stand_in.chmod(0o755)
    # systemd's rules for what is left: quotes, and $$ for a dollar sign.
    words = shlex.split(command.replace("/opt/dsin/bin/dsin", str(stand_in)))
    words = [word.replace("$$", "$") for word in words]
    environment = {**settings, "CREDENTIALS_DIRECTORY": "/c", "PATH": "/usr/bin:/bin"}
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_the_unit_runs_this_command_line(tmp_path: Path) -> None:
    assert started(SETTINGS, tmp_path).stdout.splitlines() == [
        "stream", "server.example.org:7443", "--rig", "front", "--source",
        "gst:nvarguscamerasrc ! appsink drop=true", "--bundle", "edge", "--backend",
        "tensorrt-fp16", "--kbps", "500", *CREDENTIALS,
    ]  # fmt: skip


def test_options_of_ones_own_are_words(tmp_path: Path) -> None:
    done = started({**SETTINGS, "DSIN_OPTIONS": "--give-up-s 60  -v"}, tmp_path)
    assert done.stdout.splitlines()[-3:] == ["--give-up-s", "60", "-v"]


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"DSIN_SERVER"}))
def test_an_empty_setting_is_left_out(tmp_path: Path, name: str, value: str | None) -> None:
    """Once an empty DSIN_KBPS was a wrong option, after which the unit never started again."""
    settings = {key: text for key, text in SETTINGS.items() if key != name}
    if value is not None:
        settings[name] = value
    arguments = started(settings, tmp_path).stdout.splitlines()
    assert "" not in arguments
    assert "--" + name.removeprefix("DSIN_").lower() not in arguments
    assert arguments[-6:] == CREDENTIALS


def test_the_command_line_is_one_of_dsins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It gets as far as the certificates, which are not there."""
    for settings in (SETTINGS, {"DSIN_SERVER": "server.example.org:7443"}):
        arguments = started(settings, tmp_path).stdout.splitlines()
        done = command_line(monkeypatch, capfd)(*arguments)
        assert done.status == 1
        assert "cannot read /c/ca.pem" in done.err


def test_a_missing_server_is_told(tmp_path: Path) -> None:
    done = started({**SETTINGS, "DSIN_SERVER": ""}, tmp_path)
    assert done.returncode == 2
    assert "is not set in /etc/dsin/stream.env" in done.stderr


def test_page_and_unit_have_the_same_settings() -> None:
    def settings(text: str) -> list[str]:
        return re.findall(r"^#? *(DSIN_[A-Z]+=.*)$", text, re.MULTILINE)

    of_page = [line for line in settings(PAGE.read_text()) if "gst:" not in line]
    assert of_page == settings(UNIT.read_text())
    assert [line.partition("=")[0] for line in of_page] == list(SETTINGS)


def test_engines_are_built_for_the_size_that_the_camera_is_asked_for() -> None:
    page = PAGE.read_text()
    (built,) = re.findall(r"trt edge --precision fp16 --frame (\d+x\d+) ", page)
    (source,) = re.findall(r"^DSIN_SOURCE=(camera:.*)$", page, re.MULTILINE)
    spec = parse_camera_spec(source)
    assert built == f"{spec.height}x{spec.width}"


def test_the_pages_python_lines_run() -> None:
    """Those that need no TensorRT."""
    (line,) = re.findall(r"-c '(from dsin[^']*)'", PAGE.read_text())
    imports = line.partition(";")[0]
    assert subprocess.run([sys.executable, "-c", imports]).returncode == 0
