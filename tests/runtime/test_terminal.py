"""Output that cannot be written: on a full disk, to a reader that has gone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.command_line import Outcome, Run, command_line

from dsin.runtime.codec.packet import Packet
from dsin.runtime.files import write_image
from dsin.runtime.terminal import counted, say

FULL = Path("/dev/full")
DSIN = [sys.executable, "-m", "dsin.runtime.commands.cli"]


@pytest.fixture
def dsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("terminal") / "blocks")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    return path


class TestAFullDisk:
    @pytest.fixture
    def full(self, dsin: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
        """What it prints goes to a full disk."""

        def run(*arguments: object) -> Outcome:
            with FULL.open("w") as disk:
                monkeypatch.setattr(sys, "stdout", disk)
                return dsin(*arguments)

        return run

    def test_does_not_undo_what_was_done(self, full: Run, picture: Path, bundle: Path) -> None:
        done = full("encode", picture, "--bundle", bundle)
        assert (done.status, done.err) == (0, "")
        Packet.parse(picture.with_suffix(".dsin").read_bytes())

    def test_fails_what_was_asked_to_print(self, full: Run, bundle: Path) -> None:
        done = full("info", bundle)
        assert done.status == 1
        assert done.err == "dsin: cannot write to standard output: No space left on device\n"

    def test_hides_no_other_error(self, full: Run, tmp_path: Path) -> None:
        done = full("info", tmp_path / "absent")
        assert done.status == 1
        assert "absent" in done.err

    def test_does_not_end_a_stream(self, full: Run, bundle: Path) -> None:
        done = full(
            "stream", "127.0.0.1:9", "--plaintext", "--source", "synthetic:2", "--give-up-s", 0.2,
            "--bundle", bundle,
        )  # fmt: skip
        assert done.status == 1
        assert "127.0.0.1:9" in done.err


def test_a_full_disk_below_the_errors_does_not_end_a_command(picture: Path, bundle: Path) -> None:
    """The line of progress and the log go there."""
    with FULL.open("w") as full:
        arguments = [*DSIN, "encode", picture, "--bundle", bundle]
        assert subprocess.run(arguments, stdout=full, stderr=full).returncode == 0
        arguments = [*DSIN, "encode", picture.with_name("absent.png")]
        assert subprocess.run(arguments, stdout=full, stderr=full).returncode == 1


def test_a_reader_that_has_gone_hears_no_complaint(bundle: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*DSIN, "info", bundle], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_packet_goes_into_a_pipe_alone(picture: Path, bundle: Path, tmp_path: Path) -> None:
    arguments = [*DSIN, "encode", picture, "--bundle", bundle, "-o", "/dev/stdout"]
    done = subprocess.run(arguments, capture_output=True, text=False)
    assert done.returncode == 0, done.stderr
    Packet.parse(done.stdout)
    assert done.stderr.startswith(b"/dev/stdout: ")
    with (tmp_path / "packet").open("wb") as file:
        subprocess.run(arguments, stdout=file, check=True, capture_output=False)
    assert (tmp_path / "packet").read_bytes() == done.stdout


def test_a_line_goes_beside_the_packet_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To stdout, unless that is the file that was written."""
    say("apart", tmp_path / "absent")
    with (tmp_path / "packet").open("w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        say("in the way", tmp_path / "packet")
        say("elsewhere", tmp_path)
    assert capsys.readouterr() == ("apart\n", "in the way\n")
    assert (tmp_path / "packet").read_text() == "elsewhere\n"


def test_one_thing_is_not_called_several() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
