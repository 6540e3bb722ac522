"""`dsin serve` and `dsin stream` as a person starts them: two commands, in real processes."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.certificates import Authority
from support.command_line import interruptible
from support.rig_drive import write_drive
from support.time_line import check_time_line, slices_of

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.commands import cli
from dsin.runtime.commands.stream import _Report
from dsin.runtime.device.device import DeviceCounts
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.picture_files import read_image
from dsin.runtime.sources.mcap_reader import McapReader
from dsin.runtime.sources.synthetic_rig import SyntheticRig

FRAMES, WIDTH, HEIGHT = 6, 144, 90
LONGEST_S = 120
DSIN = [sys.executable, "-m", "dsin.runtime.commands.cli"]


@pytest.fixture(scope="module")
def rig() -> SyntheticRig:
    return SyntheticRig(width=WIDTH, height=HEIGHT, frames=FRAMES)


@pytest.fixture(scope="module")
def drive(rig: SyntheticRig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rig's frames as a KITTI raw drive of 20 frames a second."""
    return write_drive(rig, tmp_path_factory.mktemp("drive"), interval_ms=50)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("streaming") / "blocks")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def of(certificates: Certificates) -> list[object]:
    """The options that name them."""
    return [
        "--ca", certificates.authority, "--cert", certificates.certificate,
        "--key", certificates.key,
    ]  # fmt: skip


class Process:
    """A command that runs; `lines` are those of its output so far, errors included."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            interruptible(*DSIN, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line in which it occurs."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert self._process.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} is not in {self.lines}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit status."""
        self._process.send_signal(number)
        return self.status()

    def status(self) -> int:
        """The exit status, once it has ended."""
        status = self._process.wait(LONGEST_S)
        self._reader.join()
        return status

    def kill(self) -> None:
        """Whatever happened."""
        self._process.kill()
        self.status()


class Server(Process):
    """`dsin serve` at a port that the system chooses."""

    def __init__(self, *arguments: object) -> None:
        super().__init__("serve", "127.0.0.1:0", *arguments)
        self.port = int(self.wait_for(r"^serving at 127.0.0.1:(\d+) \(\w+\), networks \w+")[1])


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts commands that do not outlive the test."""
    processes: list[Process] = []

    def run(kind: type[Process], *arguments: object) -> Process:
        processes.append(kind(*arguments))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def tls_server(bundle: Path, drive: Path, authority: Authority, outputs: Path) -> Iterator[Server]:
    """Has the side camera itself, and writes pictures and a recording."""
    server = Server(
        "--side", drive, "--bundle", bundle, *of(authority.server), "--pictures",
        outputs / "pictures", "--mcap", outputs / "drive.mcap",
    )  # fmt: skip
    yield server
    server.kill()


@pytest.fixture(scope="module")
def plain_server(bundle: Path) -> Iterator[Server]:
    """For cameras x and y on this machine, with metrics."""
    server = Server("--plaintext", "--bundle", bundle, "--metrics", 0)
    yield server
    server.kill()


def stream(port: int, *arguments: object) -> tuple[int, list[str]]:
    """`dsin stream` to localhost: its exit status and its lines."""
    process = Process("stream", f"localhost:{port}", *arguments)
    try:
        return process.status(), process.lines
    finally:
        process.kill()


def decoded(line: str) -> int:
    """How many frames the last line of `dsin stream` tells of, of all that were captured."""
    found = re.fullmatch(
        r"(\d+) frames? in [\d.]+ s: (?:(\d+) decoded, )?(?:(\d+) superseded, )?(\d+) dropped; "
        r"[\d.]+ kB sent",
        line,
    )
    assert found, line
    captured, *ends = (int(count or 0) for count in found.groups())
    assert captured == sum(ends), line
    return ends[0]


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, ("1 frame in", "1 attempt to connect again")), (2, ("2 frames in", "2 attempts to"))],
)
def test_the_last_line_counts_one_as_one(count: int, said: tuple[str, str]) -> None:
    counts = DeviceCounts(captured=count, sent=count, answered=count, reconnects=count)
    line = _Report(print).line(counts)
    assert line.startswith(said[0])
    assert f"; 0.0 kB sent, {said[1]}" in line


class TestTwoCommands:
    def test_certificates_pictures_and_recording(
        self,
        tls_server: Server,
        authority: Authority,
        drive: Path,
        bundle: Path,
        rig: SyntheticRig,
        outputs: Path,
    ) -> None:
        status, lines = stream(
            tls_server.port, "--source", drive, "--rig", "front", "--bundle", bundle, "--every",
            *of(authority.rig("front")),
        )  # fmt: skip
        assert status == 0, lines
        where = f"localhost:{tls_server.port}"
        assert lines[0] == f"connecting to {where} as camera x of rig front: {drive}, 144x90"
        assert lines[1] == f"connected to {where}"
        assert decoded(lines[-1]) == FRAMES
        last = outputs / "pictures" / "front" / f"frame_{FRAMES - 1:06d}.png"
        wait_until(lambda: last.exists() and packets(outputs / "drive.mcap") == FRAMES)
        with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
            for number in range(FRAMES):
                packet = encoder.encode(rig.view(number, "left"))
                expected = decoder.decode(packet, rig.view(number, "right")).image
                found = read_image(last.with_name(f"frame_{number:06d}.png"))
                assert np.array_equal(found, expected)

    def test_a_rig_cannot_stream_as_another_one(
        self, tls_server: Server, authority: Authority, drive: Path, bundle: Path
    ) -> None:
        status, lines = stream(
            tls_server.port, "--source", drive, "--rig", "rear", "--bundle", bundle,
            *of(authority.rig("front")),
        )  # fmt: skip
        assert status == 1
        assert lines[-1].endswith(
            "this certificate belongs to front and cannot be used for rig rear"
        )
        tls_server.wait_for("level=WARNING .*cannot be used for rig rear")

    def test_both_cameras_are_remote(
        self, plain_server: Server, drive: Path, bundle: Path, start: Callable[..., Process]
    ) -> None:
        where = f"localhost:{plain_server.port}", "--plaintext", "--source", drive, "--rig", "two"
        together = "--loop", "--start", time.strftime("%H:%M:%S")
        y = start(Process, "stream", *where, "--camera", "y", *together)
        url = plain_server.wait_for(r"^metrics at (http://127.0.0.1:\d+/metrics)$")[1]
        y.wait_for("^connected")
        status, lines = stream(
            plain_server.port, *where[1:], "--bundle", bundle, *together, "--frames", 2 * FRAMES,
        )  # fmt: skip
        assert status == 0, lines
        assert decoded(lines[-1])
        assert metric(url, 'dsin_frames_total{rig="two",status="decoded"}') == decoded(lines[-1])
        assert metric(url, 'dsin_side_total{rig="two",use="paired"}')
        assert any("frames go in datagrams" in line for line in lines)
        assert metric(url, 'dsin_transport{rig="two",transport="datagram"}') == 1
        assert metric(url, 'dsin_datagrams_total{rig="two",status="received"}')
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(bytes(50), ("127.0.0.1", plain_server.port))
        unknown = 'dsin_datagrams_rejected_total{reason="unknown_session",rig=""}'
        wait_until(lambda: metric(url, unknown))
        assert y.end(signal.SIGTERM) == 0
        assert "stored" in y.lines[-1]

    def test_signals_end_both_in_order(
        self, drive: Path, bundle: Path, tmp_path: Path, start: Callable[..., Process]
    ) -> None:
        recording = tmp_path / "drive.mcap"
        traces = tmp_path / "server.json", tmp_path / "device.json"
        server = start(
            Server, "--plaintext", "--side", drive, "--bundle", bundle, "--mcap", recording,
            "--trace", traces[0],
        )  # fmt: skip
        assert isinstance(server, Server)
        device = start(
            Process, "stream", f"127.0.0.1:{server.port}", "--plaintext", "--source", drive,
            "--bundle", bundle, "--loop", "--fps", 50, "--trace", traces[1],
        )  # fmt: skip
        wait_until(lambda: packets(recording) >= FRAMES)
        assert device.end(signal.SIGQUIT) == 0
        count = int(re.search(r"(\d+) decoded", device.lines[-1])[1])  # type: ignore[index]
        assert server.end(signal.SIGTERM) == 0
        assert server.lines[-3] == "stopping"
        assert server.lines[-2].startswith(f"rig rig: {count} decoded (side image: {count} paired)")
        assert server.lines[-1] == f"mcap: {recording}"
        whole = McapReader(recording)
        assert 0 < len([m for m in whole if m.topic == "/rig/x/packet"]) <= count
        assert whole.complete
        numbers = []
        for path in traces:
            slices = slices_of(path)
            check_time_line(slices)
            numbers.append({s.known["frame"] for s in slices if s.name == "frame"})
        assert len(numbers[0] & numbers[1]) >= count - 2, "one may be under way at the end"

    def test_a_recording_ends_after_so_many_frames_however_often_it_is_played(
        self, plain_server: Server, drive: Path, bundle: Path
    ) -> None:
        status, lines = stream(
            plain_server.port, "--plaintext", "--source", drive, "--rig", "again", "--bundle",
            bundle, "--loop", "--every", "--frames", FRAMES + 2,
        )  # fmt: skip
        assert status == 0
        assert decoded(lines[-1]) == FRAMES + 2


def packets(recording: Path) -> int:
    """Packets that can be read by now."""
    if not recording.exists() or not recording.stat().st_size:
        return 0
    return sum(message.topic.endswith("/x/packet") for message in McapReader(recording))


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(url, timeout=LONGEST_S) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
    return 0.0


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestNoConnection:
    """One line says why; the first one while the camera still tries."""

    def test_a_server_of_another_authority(
        self,
        tls_server: Server,
        authority: Authority,
        drive: Path,
        bundle: Path,
        tmp_path: Path,
    ) -> None:
        stranger = Authority(tmp_path / "other").rig("front")
        status, lines = stream(
            tls_server.port, "--source", drive, "--rig", "front", "--bundle", bundle,
            "--give-up-s", 0.3, *of(stranger),
        )  # fmt: skip
        reason = (
            f"cannot connect to localhost:{tls_server.port}: the server's certificate is not of "
            "the authority in --ca"
        )
        assert status == 1
        assert lines[1:] == [f"{reason}; trying again", f"dsin: {reason}"]

    def test_a_server_without_tls(
        self, plain_server: Server, authority: Authority, drive: Path, bundle: Path
    ) -> None:
        status, lines = stream(
            plain_server.port, "--source", drive, "--rig", "front", "--bundle", bundle,
            "--give-up-s", 0.3, *of(authority.rig("front")),
        )  # fmt: skip
        assert status == 1
        assert "it answers without TLS" in lines[-1]

    def test_no_server(self, drive: Path) -> None:
        status, lines = stream(
            1, "--plaintext", "--source", drive, "--camera", "y", "--give-up-s", 1
        )
        assert status == 1
        assert lines[1] == (
            "cannot connect to localhost:1: nothing listens there; does dsin serve run?; "
            "trying again"
        )
        assert len(lines) == 3

    def test_another_bundle_is_refused_and_both_sides_say_so(
        self, plain_server: Server, drive: Path, tmp_path: Path
    ) -> None:
        other = write_block_bundle(tmp_path / "other", model_id="cd" * 32)
        status, lines = stream(
            plain_server.port, "--plaintext", "--source", drive, "--rig", "odd", "--bundle", other
        )
        assert status == 1
        assert lines[-1].startswith(f"dsin: the server at localhost:{plain_server.port} refused")
        assert lines[-1].endswith("both need the same bundle")
        plain_server.wait_for("level=WARNING .*both need the same bundle")


@pytest.fixture
def dsin(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run a command that fails early in this process, in an empty folder: status and errors."""
    monkeypatch.chdir(tmp_path)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dsin", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, capfd.readouterr().err

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


Dsin = Callable[..., tuple[int, str]]
HERE = "127.0.0.1:0", "--plaintext"
THERE = "127.0.0.1:1", "--plaintext"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["127.0.0.1:0"], "give --ca, --cert and --key"),
            (["0.0.0.0:0", "--plaintext"], "0.0.0.0 is not on this machine"),
            (["127.0.0.1:0", "--ca", "a", "--cert", "b", "--key", "c"], "cannot read a: "),
            (["nowhere", "--plaintext"], "'nowhere' is not HOST:PORT"),
            ([*HERE, "--bundle", "none"], "there is no bundle none"),
            ([*HERE, "--side", "none"], "there is no 'none'"),
            ([*HERE, "--side", "a=synthetic", "--side", "a=synthetic:2"], "for a already"),
            ([*HERE, "--web", "70000"], "--web 70000: ports are 0 to 65535"),
        ],
    )
    def test_of_serve(self, dsin: Dsin, arguments: list[str], complaint: str) -> None:
        one_line(dsin("serve", *arguments, "--mcap", "r.mcap", "--pictures", "p"), complaint)
        assert not list(Path.cwd().iterdir())

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["127.0.0.1:1"], "give --ca, --cert and --key"),
            (["192.0.2.1:1", "--plaintext"], "192.0.2.1 is not on this machine"),
            (["h:1", "--ca", "a", "--cert", "b", "--key", "c"], "cannot read a: "),
            (["nowhere", "--plaintext"], "'nowhere' is not HOST:PORT"),
            ([*THERE, "--bundle", "none"], "there is no bundle none"),
            ([*THERE, "--source", "none"], "there is no 'none'"),
            ([*THERE, "--fps", "0"], "ask for more than 0"),
            ([*THERE, "--kbps", "-1"], "above 0"),
            ([*THERE, "--kbps", "0"], "above 0"),
            ([*THERE, "--start", "noon"], "give a time of day, HH:MM:SS"),
        ],
    )
    def test_of_stream(self, dsin: Dsin, arguments: list[str], complaint: str) -> None:
        one_line(dsin("stream", *arguments), complaint)

    def test_a_rate_that_the_bundle_has_not(self, dsin: Dsin, drive: Path, bundle: Path) -> None:
        found = dsin("stream", *THERE, "--source", drive, "--bundle", bundle, "--rate", 7)
        one_line(found, "bundle blocks has rates 0 to 1, not 7")

    @pytest.mark.parametrize("option", ["HOST:PORT", "--web", "--metrics"])
    def test_a_taken_port(self, dsin: Dsin, bundle: Path, option: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            address = f"127.0.0.1:{port if option == 'HOST:PORT' else 0}"
            more = [] if option == "HOST:PORT" else [option, port]
            found = dsin("serve", address, "--plaintext", "--bundle", bundle, "--pictures", "p",
                         *more)  # fmt: skip
        one_line(found, f"127.0.0.1:{port}: the port is taken; choose another one with {option}")
        assert not Path("p").exists()

    def test_a_missing_extra_is_named(
        self, dsin: Dsin, drive: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
        found = dsin("serve", *HERE, "--bundle", bundle, "--side", drive, "--ray", "--mcap", "r")
        one_line(found, "pip install 'dsin[fleet]'")
        assert not Path("r").exists()

    def test_certificates_that_do_not_belong_together(
        self, dsin: Dsin, authority: Authority
    ) -> None:
        front, rear = authority.rig("front"), authority.rig("rear")
        mixed = Certificates(front.authority, front.certificate, rear.key)
        one_line(dsin("stream", "localhost:1", *of(mixed)), "rear.key is not the private key of")
        keys = Certificates(front.key, front.certificate, front.key)
        one_line(dsin("serve", "localhost:0", *of(keys)), "front.key holds no certificate")
        swapped = Certificates(front.authority, front.key, front.certificate)
        one_line(
            dsin("serve", "localhost:0", *of(swapped)), "not a certificate with its private key"
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ["serve", *HERE, "--ca", "ca.pem"],
            ["serve", *HERE, "--jpeg"],
            ["serve", *HERE, "--ray-address", "auto"],
            ["stream", *THERE, "--rate", "1", "--kbps", "200"],
            ["stream", *THERE, "--camera", "y", "--rate", "1"],
            ["stream", *THERE, "--camera", "x", "--quality", "90"],
            ["stream", *THERE, "--camera", "z"],
            ["stream"],
        ],
    )
    def test_wrong_usage(self, dsin: Dsin, arguments: list[str]) -> None:
        status, errors = dsin(*arguments)
        assert status == 2
        assert "Error" in errors

    @pytest.mark.parametrize("command", ["serve", "stream"])
    def test_the_help_fits_80_columns(
        self, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["dsin", command, "--help"])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        assert max(map(len, capfd.readouterr().out.splitlines())) <= 80


def one_line(found: tuple[int, str], complaint: str) -> None:
    """A user's mistake: status 1 and one line that says so."""
    status, errors = found
    assert (status, errors.count("\n")) == (1, 1), errors
    assert errors.startswith("dsin: ")
    assert complaint in errors


class TestDemo:
    def test_frames_at_a_pace_are_decoded_or_dropped(
        self, drive: Path, bundle: Path, tmp_path: Path, start: Callable[..., Process]
    ) -> None:
        report = tmp_path / "r.json"
        demo = start(
            Process, "demo", "--kitti", drive, "--bundle", bundle, "--fps", 200, "--out",
            tmp_path / "out", "--json", report,
        )  # fmt: skip
        assert demo.status() == 0, demo.lines
        figures = json.loads(report.read_text())
        assert figures["frames"] + figures["dropped"] == FRAMES
        assert len(list((tmp_path / "out").iterdir())) == figures["frames"]

    def test_the_page_ends_with_ctrl_c_and_a_table(
        self, drive: Path, bundle: Path, tmp_path: Path, start: Callable[..., Process]
    ) -> None:
        out = tmp_path / "out"
        demo = start(
            Process, "demo", "--kitti", drive, "--bundle", bundle, "--web", 0, "--out", out
        )
        url = demo.wait_for(r"^open (http://127.0.0.1:\d+/) ")[1]
        with urllib.request.urlopen(url, timeout=LONGEST_S) as page:
            assert b"<html" in page.read()
        wait_until(lambda: len(list(out.glob("frame_*.png"))) > 1)
        assert demo.end(signal.SIGINT) == 0, demo.lines
        assert any(line.startswith("PSNR ") for line in demo.lines)
        assert not any("Traceback" in line for line in demo.lines)
