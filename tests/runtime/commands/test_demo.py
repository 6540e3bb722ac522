"""The demo: what it reports, and how it fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.command_line import interruptible
from support.rig_drive import write_drive
from support.time_line import Shown, check_time_line, slices_of

from dsin.runtime.backends import ort
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.commands import demo, demo_processes
from dsin.runtime.commands.demo import (
    DemoReport,
    Percentiles,
    _blocked_interrupts,
    run_demo,
)
from dsin.runtime.commands.demo_processes import (
    Failed,
    Finished,
    Listening,
    SentFrame,
    Served,
    Traced,
)
from dsin.runtime.errors import BackendError, DsinError, StreamError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.trace import Slice

WIDTH, HEIGHT = 144, 90
LONGEST_S = 120


@pytest.fixture(scope="module")
def rig() -> SyntheticRig:
    return SyntheticRig(width=WIDTH, height=HEIGHT, frames=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("demo") / "blocks")


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder(bundle) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def decoder(bundle: Path) -> Iterator[Decoder]:
    with Decoder(bundle) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def drive(rig: SyntheticRig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rig's frames as a KITTI raw drive."""
    return write_drive(rig, tmp_path_factory.mktemp("drive"), interval_ms=1000)


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsin.runtime.commands.cli", "demo", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )


def test_the_demo_streams_a_drive_and_reports(drive: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(
        "--kitti", drive, "--bundle", bundle, "--out", "pictures", "--json", "r.json",
        "--trace", "t.json", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "streaming 4 frames of 144x90\n")
    check_demos_time_line(slices_of(tmp_path / "t.json"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) == {
        "frames", "bpp", "psnr_db", "psnr_db_no_side", "fps", "dropped", "stages", "end_to_end_ms",
    }  # fmt: skip
    assert (report["frames"], report["dropped"]) == (4, 0)
    assert report["psnr_db"] > report["psnr_db_no_side"] > 10
    assert report["fps"] > 0
    for times in (*report["stages"].values(), report["end_to_end_ms"]):
        assert set(times) == {"p50_ms", "p90_ms", "p99_ms"}
        assert 0 <= times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]
    assert set(report["stages"]) == {
        "device.capture", "device.preprocess", "device.compute", "device.entropy",
        "device.packetise", "side.compute", "side.prepare", "server.entropy", "server.x_decoder",
        "server.search", "server.fusion", "server.postprocess",
    }  # fmt: skip
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"frame_{number:06d}.png" for number in range(4)]
    assert "with side information" in done.stdout
    assert "end to end" in done.stdout


def check_demos_time_line(slices: list[Shown]) -> None:
    """Every frame is there in both processes, first in the device, and then in the server."""
    check_time_line(slices)
    frames: dict[str, dict[int, Shown]] = {"device": {}, "server": {}}
    for piece in slices:
        if piece.name == "frame":
            frames[piece.process][piece.known["frame"]] = piece
    assert set(frames["device"]) == set(frames["server"]) == {0, 1, 2, 3}
    for number, sent in frames["device"].items():
        decoded = frames["server"][number]
        assert sent.start < decoded.start < decoded.end
        assert {k: sent.known[k] for k in ("rate", "bytes")} == {
            k: decoded.known[k] for k in ("rate", "bytes")
        }
    tracks = {(s.process, s.name) for s in slices}
    assert {("device", "compute"), ("server", "x_decoder"), ("server", "draw")} <= tracks


def test_the_demos_figures_are_those_of_the_files(
    drive: Path, bundle: Path, rig: SyntheticRig, encoder: Encoder, decoder: Decoder, tmp_path: Path
) -> None:
    done = run(
        "--kitti", drive, "--bundle", bundle, "--frames", 2, "--json", "r.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    bits, quality = [], []
    for number in range(2):
        original = rig.view(number, "left")
        packet = encoder.encode(original)
        bits.append(8 * len(packet) / (WIDTH * HEIGHT))
        quality.append(psnr_db(decoder.decode(packet, rig.view(number, "right")).image, original))
    assert report["bpp"] == pytest.approx(np.mean(bits), abs=1e-6)
    assert report["psnr_db"] == pytest.approx(np.mean(quality), abs=1e-3)
    assert len(list((tmp_path / "dsin-demo").iterdir())) == 2


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 4)])
def test_the_device_leaves_half_of_the_cores_to_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, threads: int
) -> None:
    opened: list[int] = []

    def encoder(bundle: str | None, backend: str, *, threads: int) -> Encoder:
        opened.append(threads)
        raise DsinError("enough")

    monkeypatch.setattr(demo_processes, "Encoder", encoder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    ours, theirs = Pipe()
    settings = demo_processes.Settings(
        None, None, 1, None, None, None, tmp_path, "cpu", None, None
    )  # fmt: skip
    with pytest.raises(SystemExit):
        demo_processes.run_device(theirs, settings)
    assert opened == [threads]
    assert ours.recv() == demo_processes.Failed("DsinError", "enough")


def test_networks_of_both_processes_do_not_wait_awake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ort.SHARED_CORES, "0")  # restored in the end
    monkeypatch.delenv(ort.SHARED_CORES)
    targets: list[object] = []

    class Context:
        Pipe = staticmethod(Pipe)

        def Process(self, *, target: object, **_: object) -> None:  # noqa: N802
            targets.append(target)
            raise DsinError("enough")

    monkeypatch.setattr(demo.multiprocessing, "get_context", lambda _: Context())
    settings = demo_processes.Settings(
        None, None, 1, None, None, None, tmp_path, "cpu", None, None
    )  # fmt: skip
    with pytest.raises(DsinError, match="enough"), demo._started(settings):
        pass
    assert targets == [demo_processes.in_own_process]

    awake: list[str] = []

    class Options:
        def add_session_config_entry(self, name: str, value: str) -> None:
            if name == "session.intra_op.allow_spinning":
                awake.append(value)

    class Module:
        SessionOptions = Options

    monkeypatch.setattr(ort, "onnxruntime", lambda _: Module)

    def opened(*_: object) -> None:
        with pytest.raises(BackendError):  # the module opens nothing
            ort.ort_session(tmp_path, ort.CPU, [ort.CPU], 2)

    opened()
    ours, _ = Pipe()
    demo_processes.in_own_process(opened, ours, settings)
    assert awake == ["1", "0"]


class Ended:
    """A process of the demo that has ended with a status, or that ends when it is told to."""

    def __init__(self, status: int | None = 0) -> None:
        self.exitcode: int | None = None
        self._status = status

    def join(self, timeout: float | None = None) -> None:
        self.exitcode = self._status


class Talk(NamedTuple):
    """What stands in for the processes: their ends of the pipes, device first, and the settings
    that they were given."""

    device: Connection
    server: Connection
    settings: list[demo_processes.Settings]

    def told(self) -> list[list[object]]:
        """What the demo has told each of them."""
        return [
            [end.recv() for _ in iter(end.poll, False)] for end in (self.device, self.server)
        ]  # fmt: skip


Talking = Callable[..., Talk]


@pytest.fixture
def talking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talking]:
    """Puts processes that say what the test lets them say into the place of the demo's own."""
    ends: list[Connection] = []

    def begin(*, device: int | None = 0, server: int | None = 0) -> Talk:
        pairs = [Pipe(), Pipe()]
        ends.extend(end for pair in pairs for end in pair)
        processes = [cast(BaseProcess, Ended(status)) for status in (device, server)]
        children = [
            demo._Child(name, process, ours)
            for name, process, (ours, _) in zip(("device", "server"), processes, pairs, strict=True)
        ]
        settings: list[demo_processes.Settings] = []

        @contextmanager
        def started(given: demo_processes.Settings) -> Iterator[list[demo._Child]]:
            settings.append(given)
            yield children

        monkeypatch.setattr(demo, "_started", started)
        monkeypatch.setattr(demo, "GRACE_S", 0.02)
        monkeypatch.setattr(demo, "STALL_S", 5.0)
        return Talk(pairs[0][1], pairs[1][1], settings)

    yield begin
    for end in ends:
        end.close()


def say_all(talk: Talk, frames: int = 2) -> None:
    """A whole run: frames of 100 and 200 bytes, sent and decoded within 4 seconds."""
    talk.server.send(Listening("127.0.0.1:7", ("http://here/", "ws://here/ in Foxglove")))
    talk.device.send(Traced([Slice("compute", "MainThread", 1_000, 3_000, {"frame": 0})]))
    for number in range(frames):
        stages = {"capture": 1.0 + number, "compute": 10.0 + number}
        talk.device.send(SentFrame(number, 100 + 100 * number, stages, 50.0 + 10 * number))
        stages = {"side.compute": 3.0, "server.search": 4.0 + number}
        talk.server.send(Served(number, 30.00004 + number, 29.50006 + number, stages))
    talk.server.send(Traced([Slice("search", "decode-0", 4_000, 5_000, {"frame": 0})]))
    talk.device.send(Finished(4.0, frames + 1))
    talk.server.send(Finished())


def test_a_demo_prints_and_writes_what_both_processes_told(
    drive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], talking: Talking
) -> None:
    talk = talking()
    say_all(talk)
    out = tmp_path / "pictures"
    report = run_demo(drive, 2, str(bundle), 0, out, tmp_path / "r.json", trace=tmp_path / "t.json")
    assert report == DemoReport(
        frames=2,
        bpp=round(8 * 150 / (WIDTH * HEIGHT), 6),
        psnr_db=30.5,
        psnr_db_no_side=30.0001,
        fps=0.5,
        dropped=1,
        stages={
            "device.capture": Percentiles(1.5, 1.9, 1.99),
            "device.compute": Percentiles(10.5, 10.9, 10.99),
            "side.compute": Percentiles(3.0, 3.0, 3.0),
            "server.search": Percentiles(4.5, 4.9, 4.99),
        },
        end_to_end_ms=Percentiles(55.0, 59.0, 59.9),
    )
    assert json.loads((tmp_path / "r.json").read_text()) == report.to_json()
    assert capsys.readouterr() == (
        "open http://here/ (Ctrl-C ends the demo)\n"
        "open ws://here/ in Foxglove (Ctrl-C ends the demo)\n"
        "frames   2, 1 dropped, 0.50 per second\n"
        "rate     0.0926 bit per pixel\n"
        "PSNR     30.50 dB with side information, 30.00 dB without (+0.50 dB)\n"
        "\n"
        "milliseconds                  p50      p90      p99\n"
        "device   capture              1.5      1.9      2.0\n"
        "         compute             10.5     10.9     11.0\n"
        "side     compute              3.0      3.0      3.0\n"
        "server   search               4.5      4.9      5.0\n"
        "end to end                   55.0     59.0     59.9\n"
        "\n"
        "networks float\n"
        "link     1.2 kbit/s at the recorded pace; this machine, doing the work of both sides, "
        "keeps up with 0.5 of 1.0 frames a second\n"
        f"pictures {out}/frame_000000.png to frame_000001.png\n",
        "streaming 2 frames of 144x90\n",
    )
    assert talk.told() == [["127.0.0.1:7"], [demo_processes.STOP]]
    (settings,) = talk.settings
    assert settings.shared is not None, "the server need not read what the device has read"
    assert replace(settings, shared=None) == (
        demo_processes.Settings(
            drive, None, 2, str(bundle), 0, None, out, "cpu", None, None, None, traced=True
        )
    )
    shown = slices_of(tmp_path / "t.json")
    assert [(s.process, s.name) for s in shown] == [("device", "compute"), ("server", "search")]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"kbps": 40.5},
            "1.2 kbit/s at the recorded pace, 40.5 wanted; this machine, doing the work of both "
            "sides, keeps up with 0.5 of 1.0 frames a second",
        ),
        (
            {"fps": 0.25},
            "0.6 kbit/s; 0.5 of 0.2 frames a second were sent, the newest each time",
        ),
        (
            {"fps": 8, "kbps": 40},
            "0.6 kbit/s, 40 wanted; 0.5 of 8.0 frames a second were sent, the newest each time",
        ),
    ],
)
def test_a_demo_tells_whether_the_link_and_the_pace_were_kept(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], talking: Talking,
    options: dict[str, float], line: str,
) -> None:  # fmt: skip
    say_all(talking())
    run_demo(drive, 2, out=tmp_path, **options)  # type: ignore[arg-type]
    assert f"\nlink     {line}\n" in capsys.readouterr().out


def test_a_machine_that_is_fast_enough_keeps_up_with_the_camera(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rig: SyntheticRig,
    talking: Talking,
) -> None:  # fmt: skip
    slow = write_drive(rig, tmp_path / "drive", interval_ms=2000)
    say_all(talking())
    run_demo(slow, 2, str(bundle), out=tmp_path)
    assert "sides, keeps up with 0.5 frames a second\n" in capsys.readouterr().out


@pytest.mark.parametrize("view", [{"web": 0}, {"foxglove": 0}])
def test_a_demo_that_is_looked_at_goes_on_at_the_recorded_pace(
    drive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    talking: Talking, view: dict[str, int],
) -> None:  # fmt: skip
    """Its frames come again and again, and have a picture each."""
    talk = talking()
    say_all(talk, frames=5)
    assert run_demo(drive, 3, str(bundle), out=tmp_path, **view).frames == 5  # type: ignore[arg-type]
    (settings,) = talk.settings
    assert (settings.fps, settings.repeats, settings.traced) == (1.0, True, False)
    assert "to frame_000002.png\n" in capsys.readouterr().out


def test_frames_that_get_lost_fail_a_demo_of_all_frames_alone(
    drive: Path, bundle: Path, tmp_path: Path, talking: Talking
) -> None:
    """At a pace they count as dropped, as if they had never been sent."""

    def lose(talk: Talk) -> None:
        talk.server.send(Served(7, 1.0, 1.0, {}))
        talk.device.send(SentFrame(8, 9999, {}, 1.0))
        say_all(talk)

    lose(talking())
    with pytest.raises(StreamError) as lost:
        run_demo(drive, 2, str(bundle), out=tmp_path)
    assert str(lost.value) == (
        "frames were lost between the processes: the device has answers to 3, the server decoded 3"
    )
    lose(talking())
    report = run_demo(drive, 2, str(bundle), out=tmp_path, fps=8)
    assert (report.frames, report.dropped, report.psnr_db) == (2, 1, 30.5)
    assert report.bpp == round(8 * 150 / (WIDTH * HEIGHT), 6)


LOST_PEER = Failed("StreamError", "the server went away")
TORN = Failed("FrameError", "a.png is not an image")


@pytest.mark.parametrize(
    ("device", "server", "message"),
    [
        ([LOST_PEER], [TORN], "the server process failed: a.png is not an image"),
        ([TORN], [], "the device process failed: a.png is not an image"),
        ([LOST_PEER], [None], "the server process ended unexpectedly with status 3; see above"),
        (
            [None], [LOST_PEER],
            "the device process was killed by signal 9: if nobody did it, the machine may be "
            "short of memory",
        ),
        ([LOST_PEER], [Finished()], "the device process failed: the server went away"),
        ([None], [TORN], "the server process failed: a.png is not an image"),
    ],
)  # fmt: skip
def test_of_what_goes_wrong_the_likely_cause_is_told(
    drive: Path, bundle: Path, tmp_path: Path, talking: Talking,
    device: list[object], server: list[object], message: str,
) -> None:  # fmt: skip
    """None is a process that dies: the device of signal 9, the server with status 3."""
    talk = talking(device=-9, server=3)
    for end, said in ((talk.device, device), (talk.server, server)):
        for word in said:
            end.close() if word is None else end.send(word)
    with pytest.raises(StreamError) as failed:
        run_demo(drive, 2, str(bundle), out=tmp_path, json_path=tmp_path / "r.json")
    assert str(failed.value) == message
    assert not (tmp_path / "r.json").exists()


def test_a_demo_of_which_nothing_is_heard_is_given_up(
    drive: Path, bundle: Path, tmp_path: Path, talking: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    talking()
    monkeypatch.setattr(demo, "STALL_S", 0.01)
    with pytest.raises(StreamError, match=r"^neither process made progress for 0 s$"):
        run_demo(drive, 2, str(bundle), out=tmp_path)


def test_ctrl_c_ends_a_demo_that_is_looked_at_in_order(
    drive: Path, bundle: Path, tmp_path: Path, talking: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one ends the device's stream, as if its frames had ended; any other, and the first
    one of a demo that ends by itself, end it at once."""
    really, presses = demo.wait, [1]

    def wait(*arguments: Any, **options: Any) -> Any:
        if presses:
            presses.pop()
            raise KeyboardInterrupt
        return really(*arguments, **options)

    monkeypatch.setattr(demo, "wait", wait)
    talk = talking()
    say_all(talk)
    assert run_demo(drive, 2, str(bundle), out=tmp_path, web=0).frames == 2
    assert talk.told() == [[demo_processes.STOP, "127.0.0.1:7"], [demo_processes.STOP]]
    for again, options in (([1, 1], {"web": 0}), ([1], {})):
        presses[:] = again
        say_all(talking())
        with pytest.raises(KeyboardInterrupt):
            run_demo(drive, 2, str(bundle), out=tmp_path, **options)  # type: ignore[arg-type]


def test_one_frame_is_told_as_one(
    drive: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], talking: Talking
) -> None:
    say_all(talking(), frames=1)
    run_demo(drive, 1, str(bundle), out=tmp_path)
    assert capsys.readouterr().err == "streaming 1 frame of 144x90\n"


def test_a_bit_rate_is_kept_frame_by_frame(tmp_path: Path) -> None:
    """With the shipped weights, on the built-in rig: 12 frames at 10 a second."""
    rig = SyntheticRig(width=416, height=128, frames=12)
    small = write_drive(rig, tmp_path / "drive", interval_ms=100)
    done = run("--kitti", small, "--kbps", 40, "--frames", 12, "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    shown = re.search(r"link +([\d.]+) kbit/s at the recorded pace, 40 wanted", done.stdout)
    assert shown
    assert float(shown[1]) == pytest.approx(40, rel=0.15)
    height, width = rig.size
    assert report["bpp"] * height * width / 100 == pytest.approx(float(shown[1]), rel=0.01)


def test_mistakes_are_one_line(drive: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    good = ("--kitti", drive, "--bundle", bundle)
    for arguments, complaint in (
        (("--kitti", tmp_path / "none", "--bundle", bundle), "there is no folder"),
        (("--source", drive / "image_02" / "data", "--bundle", bundle), "is one camera: name"),
        ((*good, "--rate", 7), "rate"),
        ((*good, "--kbps", 0), "above 0"),
        ((*good, "--out", "file"), "cannot write pictures to file"),
        ((*good, "--json", "none/r.json"), "cannot write none/r.json"),
        ((*good, "--trace", "none/t.json"), "cannot write none/t.json"),
        (("--kitti", drive, "--bundle", tmp_path / "none"), "none"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1, arguments
        assert done.stderr.count("\n") == 1, done.stderr
        assert complaint in done.stderr
        assert not (tmp_path / "dsin-demo").exists() or not list((tmp_path / "dsin-demo").iterdir())


def test_a_frame_that_breaks_on_the_way_ends_the_demo_with_its_reason(
    drive: Path, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "drive"
    for file in sorted(drive.rglob("*")):
        if file.is_file():
            copy = folder / file.relative_to(drive)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (folder / "image_03" / "data" / "0000000002.png").write_bytes(b"torn")
    done = run("--kitti", folder, "--bundle", bundle, "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dsin: the server process failed: ")
    assert "0000000002.png is not an image" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.json").exists()


def children_of(pid: int) -> list[int]:
    """Process numbers of the demo's device and server processes, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"\nPPid:\t{pid}\n" in status and b"spawn_main" in command:
                found.append(int(entry.name))
    return sorted(found)


def started_demo(bundle: Path, cwd: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A long demo, once both of its processes are there."""
    command = [sys.executable, "-m", "dsin.runtime.commands.cli", "demo", "--bundle", str(bundle)]
    demo = subprocess.Popen(
        interruptible(*command, "--frames", 500), cwd=cwd, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + LONGEST_S
    while len(children := children_of(demo.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return demo, children


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")


@linux
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_is_reported_and_takes_the_other_with_it(
    bundle: Path, tmp_path: Path, which: int
) -> None:
    demo, children = started_demo(bundle, tmp_path)
    os.kill(children[which], signal.SIGKILL)
    _, errors = demo.communicate(timeout=LONGEST_S)
    assert demo.returncode == 1
    assert errors.splitlines()[-1].startswith("dsin: the ")
    assert "was killed by signal 9" in errors.splitlines()[-1]
    wait_until_gone(children)


def test_ctrl_c_stays_blocked_while_the_first_child_starts() -> None:
    """Starting a process may start multiprocessing's tracker, which unblocks the signal."""
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    with _blocked_interrupts():
        resource_tracker.ensure_running()
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@linux
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_behind_when_the_demo_is_ended(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    demo, children = started_demo(bundle, tmp_path)
    demo.send_signal(getattr(signal, name))
    _, errors = demo.communicate(timeout=LONGEST_S)
    assert demo.returncode != 0
    assert "Traceback" not in errors
    wait_until_gone(children)


def test_psnr_by_hand() -> None:
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr_db(black + np.uint8(255), black) == pytest.approx(0)
    assert psnr_db(black + np.uint8(5), black) == pytest.approx(34.1514, abs=1e-4)
    assert psnr_db(black, black) == 100


def test_panels_are_captioned_above_the_untouched_pictures() -> None:
    pictures = [np.full((50, 600, 3), 10 + n, np.uint8) for n in range(4)]
    sheet = side_by_side([Panel(p, f"p{n}", "a note") for n, p in enumerate(pictures)])
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 2
    for number, picture in enumerate(pictures):
        bottom = (number // 2 + 1) * sheet.shape[0] // 2 + (0 if number > 1 else -2)
        left = number % 2 * (width + 2)
        assert np.array_equal(sheet[bottom - 50 : bottom, left : left + 600], picture)
    assert sheet[: height - 54].max() > 200  # the letters
    small = side_by_side([Panel(pictures[0][:, :100], "small", "enlarged")], columns=1)
    assert small.shape[1] == 500
