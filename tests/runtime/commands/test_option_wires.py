"""Every option of every command arrives where it is used: cut a wire, and one of these fails."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dsin.export import cli as export_cli
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.facts import as_lines, bundle_facts, packet_facts
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.commands import cli
from dsin.runtime.errors import DsinError
from dsin.runtime.files import write_image
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.outputs.outputs import Outputs
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.version import __version__


class Call(NamedTuple):
    """What something was called with."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def fields(self, expected: dict[str, Any]) -> dict[str, Any]:
        """Of the first argument, those that are expected."""
        return {name: getattr(self.arguments[0], name) for name in expected}


Catch = Callable[..., list[Call]]


@pytest.fixture
def catch(monkeypatch: pytest.MonkeyPatch) -> Catch:
    """Puts a note-taker in the place of a function, by its dotted name."""

    def put(name: str, result: Any = None) -> list[Call]:
        calls: list[Call] = []

        def note(*arguments: Any, **options: Any) -> Any:
            calls.append(Call(arguments, options))
            return result

        monkeypatch.setattr(name, note)
        return calls

    return put


def run(app: typer.Typer, line: str, *more: object) -> str:
    done = CliRunner().invoke(app, [*line.split(), *map(str, more)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def subset(options: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in expected}


PEMS = "--ca ca.pem --cert cert.pem --key key.pem"
CERTIFICATES = Certificates(Path("ca.pem"), Path("cert.pem"), Path("key.pem"))


def test_serve(catch: Catch) -> None:
    calls = catch("dsin.runtime.commands.serve.serve")
    run(
        cli.app,
        "serve 0.0.0.0:7 --side camera:1 --side b=camera:2 --bundle paper --backend cuda "
        "--workers 3 --budget-mib 77 --tolerance-ms 11 --side-wait-ms 22 --side-max-age-ms 33 "
        "--pictures p --jpeg --panels --video v.mp4 --mcap m.mcap --rerun r.rrd --web 81 "
        "--metrics 82 --foxglove 83 --web-host 127.0.0.3 --trace t --no-datagrams "
        f"{PEMS}",
    )
    expected = {
        "address": "0.0.0.0:7", "bundle": "paper", "backend": "cuda", "workers": 3,
        "budget_mib": 77, "policy": PairingPolicy(11, 22, 33), "certificates": CERTIFICATES,
        "web": 81, "metrics": 82, "foxglove": 83, "web_host": "127.0.0.3", "fleet": None,
        "trace": Path("t"), "datagrams": False,
    }  # fmt: skip
    assert calls[0].fields(expected) == expected
    assert list(calls[0].arguments[0].sides) == ["camera:1", "b=camera:2"]
    outputs = {
        "pictures": Path("p"), "jpeg": True, "panels": True, "video": Path("v.mp4"),
        "mcap": Path("m.mcap"), "rerun": Path("r.rrd"),
    }  # fmt: skip
    assert {n: getattr(calls[0].arguments[0].outputs, n) for n in outputs} == outputs


def test_serve_with_ray_and_without_anything(catch: Catch) -> None:
    calls = catch("dsin.runtime.commands.serve.serve")
    run(
        cli.app,
        "serve --plaintext --ray --ray-address h:9 --replicas 4 --replica-cpus 1.5 "
        "--replica-gpus 0.25 --bundle paper --precision float --look sharp --backend cuda",
    )
    fleet = {
        "address": "h:9", "replicas": 4, "cpus": 1.5, "gpus": 0.25, "bundle": "paper@float@sharp",
        "backend": "cuda",
    }  # fmt: skip
    assert {n: getattr(calls[0].arguments[0].fleet, n) for n in fleet} == fleet
    assert calls[0].fields({"bundle": 1}) == {"bundle": "paper@float@sharp"}
    run(cli.app, "serve --plaintext")
    plain = {
        "address": "127.0.0.1:7000", "workers": 1, "budget_mib": None, "web": None,
        "metrics": None, "foxglove": None, "policy": PairingPolicy(50, 50, 300),
        "certificates": None,
        "outputs": Outputs(), "fleet": None, "web_host": "127.0.0.1", "datagrams": True,
    }  # fmt: skip
    assert calls[1].fields(plain) == plain


def test_a_servers_parts_get_what_it_was_asked_for(
    catch: Catch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsin.runtime.commands import serve as module
    from dsin.runtime.server import rig_server

    class Part:
        """Any of them, as far as the server uses it."""

        port, url, sizes = 7, "http://here/", ((32, 48),)
        bundle = status = taken = missed = failed = name = None

        def __enter__(self) -> "Part":
            return self

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

        def open(self) -> list[Any]:
            return []

    calls = {}
    for name in ("SideCameras", "Decoder", "Encoder", "DecodePool", "StreamServer", "warm_up"):
        calls[name] = catch(f"dsin.runtime.server.rig_server.{name}", Part())
    for name in ("SideCameras", "StreamServer"):
        monkeypatch.setattr(module, name, getattr(rig_server, name))
    http = catch("dsin.runtime.web.http_server.HttpServer", Part())
    live = catch("dsin.runtime.outputs.foxglove_sink.FoxgloveSink", Part())

    def original(frame: Any) -> Any: ...

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    options = module.ServeOptions(
        address="127.0.0.1:0", bundle="paper", backend="cpu", workers=3, budget_mib=77,
        sides=["b=x"], policy=PairingPolicy(1, 2, 3), web=0, metrics=0, web_host="127.0.0.1",
        foxglove=0, original=original, datagrams=False,
    )  # fmt: skip
    with module.running_server(options) as server:
        assert (server.urls, server.metrics_urls) == (["http://here/"], ["http://here/"])
        assert server.foxglove_url == "http://here/"
        assert server.networks == "float"
    assert live[0].arguments[:2] == ("127.0.0.1", 0)
    assert live[0].options == {"patch": open_bundle("paper").search.patch, "original": original}
    assert calls["SideCameras"][0].arguments == (["b=x"],)
    assert len(calls["Decoder"]) == 3
    decoder = calls["Decoder"][0]
    assert (decoder.arguments[0].path.name, decoder.arguments[1]) == ("paper", "cpu")
    assert decoder.options == {"threads": 4}
    assert len(calls["warm_up"]) == 3
    assert calls["warm_up"][0].arguments[1] == (32, 48)
    pool = calls["DecodePool"][0]
    assert (len(pool.arguments[0]), pool.arguments[1]) == (3, PairingPolicy(1, 2, 3))
    assert pool.options == {"budget_mib": 77}
    assert calls["StreamServer"][0].arguments[1:] == ("127.0.0.1", 0)
    assert calls["StreamServer"][0].options["datagrams"] is False
    assert [call.arguments[:2] for call in http] == [("127.0.0.1", 0)] * 2
    assert len(http[0].arguments[2]) == len(http[1].arguments[2]) + 1, "the page is on the first"


def test_outputs_are_opened_as_asked(catch: Catch) -> None:
    here = "dsin.runtime.outputs."
    calls = {
        name: catch(here + name)
        for name in ("picture_sink.PictureSink", "video_sink.VideoSink", "mcap_sink.McapSink",
                     "rerun_sink.RerunSink", "bag_sink.BagSink")
    }  # fmt: skip
    p, v, m, r, b = (Path(name) for name in ("p", "v.mp4", "m.mcap", "r.rrd", "b"))
    everything = Outputs(p, jpeg=True, panels=True, video=v, fps=7, mcap=m, rerun=r, bag=b)
    assert len(everything.open()) == 5
    assert len(Outputs(p).open()) == 1
    assert calls["picture_sink.PictureSink"] == [
        Call((p, ".jpg"), {"panels": True}), Call((p, ".png"), {"panels": False})
    ]  # fmt: skip
    assert [calls[n][0].arguments for n in list(calls)[1:]] == [(v, 7), (m,), (r,), (b,)]


def test_stream(catch: Catch) -> None:
    calls = catch("dsin.runtime.commands.stream.stream")
    run(
        cli.app,
        "stream host:7 --source s.mp4 --rig front --bundle paper --backend cuda --rate 3 "
        "--fps 5 --frames 9 --loop --give-up-s 4 --trace t --transport grpc --independent "
        f"{PEMS}",
    )
    expected = {
        "address": "host:7", "source": "s.mp4", "rig": "front", "camera": "x", "bundle": "paper",
        "backend": "cuda", "rate": 3, "kbps": None, "fps": 5, "frames": 9, "loop": True,
        "every": False, "start": None, "quality": None, "certificates": CERTIFICATES,
        "give_up_s": 4, "trace": Path("t"), "transport": "grpc", "independent": True,
    }  # fmt: skip
    assert calls[0].fields(expected) == expected
    run(cli.app, "stream host:7 --camera y --quality 80 --plaintext")
    expected = {"camera": "y", "quality": 80, "certificates": None, "source": "synthetic"}
    assert calls[1].fields(expected) == expected
    run(cli.app, "stream host:7 --kbps 250 --start 12:00:00 --plaintext")
    expected = {"kbps": 250, "start": "12:00:00", "rate": None, "loop": False, "fps": None,
                "transport": "auto", "independent": False}  # fmt: skip
    assert calls[2].fields(expected) == expected
    run(cli.app, "stream host:7 --kbps auto --plaintext")
    assert calls[3].fields({"kbps": 1}) == {"kbps": "auto"}
    run(cli.app, "stream host:7 --every --precision int8 --plaintext")
    assert calls[4].fields({"every": 1, "bundle": 1}) == {"every": True, "bundle": "edge@int8"}


def test_a_devices_parts_get_what_it_was_asked_for(
    catch: Catch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsin.runtime.commands import stream as module

    here = "dsin.runtime.commands.stream."
    camera = SimpleNamespace(size=(32, 48), fps=12.0, close=lambda: None)
    opened = catch(here + "open_camera", camera)
    monkeypatch.setattr(module, "_start_s", lambda start: {"12:00:00": 77.0, None: None}[start])
    pictures, packets = catch(here + "PictureMaker"), catch(here + "PacketMaker", "maker")
    paced = catch(here + "RateController.for_bundle", "controller")
    followers = catch(here + "LinkFollower", "follower")
    catch(here + "warm_up")
    checked = catch(here + "check_camera")
    counts = SimpleNamespace(
        answered=1, captured=1, statuses={}, dropped=0, lost=0, reconnects=0, sent_bytes=0, unsent=0
    )
    devices = catch(here + "Device", SimpleNamespace(run=lambda: counts, stop=None))
    catch(here + "on_ending")
    told: list[str] = []
    module.stream(
        module.StreamOptions(
            "127.0.0.1:1", "s", "front", camera="y", quality=80, fps=5, frames=9, loop=True,
            start="12:00:00", give_up_s=4, transport="datagram",
        ),
        told.append,
    )  # fmt: skip
    connecting, report = told
    assert connecting == "connecting to 127.0.0.1:1 as camera y of rig front: s, 48x32"
    assert report.startswith("1 frame in ")
    given = {"fps": 5, "frames": 9, "loop": True, "every": False, "start_s": 77.0}
    assert opened[0] == Call(("s", "right"), given)
    assert pictures[0].arguments == (80,)
    assert devices[0].arguments[2:] == ("127.0.0.1:1", "front", None)
    expected: dict[str, Any] = {"every": False, "give_up_s": 4, "transport": "datagram"}
    assert subset(devices[0].options, expected) == expected
    assert checked[0].arguments == ("127.0.0.1:1", None)
    module.stream(
        module.StreamOptions("127.0.0.1:1", bundle="paper", rate=0, every=True), print
    )  # fmt: skip
    assert opened[1].arguments == ("synthetic", "left")
    assert opened[1].options["every"] is True
    assert packets[0].arguments[0].bundle.path.name == "paper"
    assert packets[0].arguments[1:] == (0, None)
    assert devices[1].options["every"] is True
    assert packets[0].options == {"independent": False}
    module.stream(
        module.StreamOptions("127.0.0.1:1", bundle="paper", kbps=250, independent=True), print
    )
    assert packets[1].arguments[1:] == (None, "controller")
    assert packets[1].options == {"independent": True}
    assert paced[0].arguments[1:] == (250, 12.0)
    assert paced[0].options == {"size": (32, 48)}
    assert devices[2].options["follower"] is None
    module.stream(module.StreamOptions("127.0.0.1:1", bundle="paper", kbps="auto"), print)
    assert packets[2].arguments[1:] == (None, "controller")
    assert paced[1].arguments[1:] == (200, 12.0)
    assert followers[0].arguments == ("controller", 12.0)
    assert devices[3].options["follower"] == "follower"
    module.stream(module.StreamOptions("127.0.0.1:1", "camera:0", bundle="paper", frames=9), print)
    # Of a recording the camera counts, of a live one the device does.
    assert (opened[0].options["frames"], devices[0].options["frames"]) == (9, None)
    assert (opened[4].options["frames"], devices[4].options["frames"]) == (None, 9)
    counts.answered, told[:] = 0, []
    with pytest.raises(DsinError, match=r"^the server answered none of the frames$"):
        module.stream(module.StreamOptions("127.0.0.1:1", camera="y"), told.append)
    assert told[1].startswith("1 frame in "), "what became of them is told all the same"
    counts.captured = 0  # it was stopped before there was one
    module.stream(module.StreamOptions("127.0.0.1:1", camera="y"), told.append)


def test_replay(catch: Catch) -> None:
    report = SimpleNamespace(table=lambda: "")
    calls = catch("dsin.runtime.replay.replay.replay_recordings", report)
    opened = catch("dsin.runtime.outputs.outputs.Outputs.open", [])
    outputs: list[Outputs] = []

    class Opened(SimpleNamespace):
        def __enter__(self) -> str:
            return "decoder"

        def __exit__(self, *_: object) -> None: ...

    decoders = catch("dsin.runtime.codec.decoder.Decoder", Opened())
    made = catch("dsin.runtime.outputs.outputs.Outputs", SimpleNamespace(open=lambda: outputs))
    run(
        cli.app,
        "replay a.mcap b.mcap -o o --panels --mcap m.mcap --video v.mp4 --fps 7 --rerun r.rrd "
        "--bag b --rig front --no-side --bundle paper --precision float --look sharp "
        "--backend cuda",
    )
    assert decoders[0].arguments == ("paper@float@sharp", "cuda")
    assert calls[0].arguments == ([Path("a.mcap"), Path("b.mcap")], "decoder")
    expected: dict[str, Any] = {"rig": "front", "use_side": False, "repair_side": True}
    assert subset(calls[0].options, expected) == expected
    assert made[0].options == {
        "pictures": Path("o"), "panels": True, "video": Path("v.mp4"), "fps": 7,
        "mcap": Path("m.mcap"), "rerun": Path("r.rrd"), "bag": Path("b"),
    }  # fmt: skip
    run(cli.app, "replay a.mcap")
    expected = {"rig": None, "use_side": True, "repair_side": True}
    assert subset(calls[1].options, expected) == expected
    run(cli.app, "replay a.mcap --live-side")
    assert calls[2].options["repair_side"] is False
    assert not opened


def test_replay_gives_each_frame_to_each_output_and_tells_what_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dsin.runtime.replay.replay import ReplayReport, RigReplay

    class Output:
        def __init__(self, name: str, *paths: str) -> None:
            self.name, self.paths, self.done = name, list(map(Path, paths)), list[Any]()

        def take(self, frame: Any) -> None:
            self.done.append(frame)

        def close(self) -> None:
            self.done.append("closed")

    def replay(*_: object, on_frame: Callable[[Any], None], **__: object) -> ReplayReport:
        on_frame("a")
        on_frame("b")
        return ReplayReport({"car": RigReplay(2, 1, 2, 1, 1, 6000, 2000, "damaged")}, 0, True)

    outputs = [Output("video", "v-car.mp4", "v-van.mp4"), Output("mcap", "m.mcap")]
    monkeypatch.setattr("dsin.runtime.replay.replay.replay_recordings", replay)
    monkeypatch.setattr("dsin.runtime.codec.decoder.Decoder", lambda *_: nullcontext())
    monkeypatch.setattr("dsin.runtime.outputs.outputs.Outputs.open", lambda _: outputs)
    assert run(cli.app, "replay a.mcap").splitlines() == [
        "rig           frames  bit/pixel    side: live       now  repaired  rejected",
        "car                2     3.0000             2         1         1         1",
        "car: damaged",
        "video: v-car.mp4, v-van.mp4",
        "mcap: m.mcap",
    ]
    assert [output.done for output in outputs] == [["a", "b", "closed"]] * 2


def test_demo(catch: Catch) -> None:
    calls = catch("dsin.runtime.commands.demo.run_demo")
    run(
        cli.app,
        "demo --kitti d --frames 9 --bundle paper --rate 0 --out o --json j --backend cuda "
        "--fps 7 --web 81 --foxglove 82 --trace t",
    )
    assert calls[0].arguments == (Path("d"), 9, "paper", 0, Path("o"), Path("j"), "cuda")
    assert calls[0].options == {
        "kbps": None, "fps": 7, "web": 81, "side": None, "foxglove": 82, "trace": Path("t"),
    }  # fmt: skip
    run(cli.app, "demo --kbps 300 --source s --side t --precision int8 --look structure -o p")
    assert calls[1].arguments[:3] == ("s", None, "edge@int8@structure")
    assert calls[1].arguments[4] == Path("p")
    run(cli.app, "demo --output p")
    assert calls[2].arguments[4] == Path("p")
    assert subset(calls[1].options, {"kbps": 1, "side": 1}) == {"kbps": 300, "side": "t"}


def test_profile(catch: Catch) -> None:
    calls = catch("dsin.runtime.profiling.profiler.run_profile")
    run(
        cli.app,
        "profile paper --kitti d --frames 9 --warmup 2 --fps 7 --rate 0 --threads 3 --json j "
        "--html h --backend cuda",
    )
    expected = {
        "bundle": "paper", "source": Path("d"), "samples": 9, "warmup": 2, "fps": 7, "rate": 0,
        "threads": 3, "backend": "cuda",
    }  # fmt: skip
    assert calls[0].fields(expected) == expected
    assert calls[0].arguments[1:] == (Path("j"), Path("h"))
    run(cli.app, "profile paper --source s --side t --precision float")
    expected = {"bundle": "paper@float", "source": "s", "side": "t"}
    assert calls[1].fields(expected) == expected


def test_selftest(catch: Catch) -> None:
    calls = catch("dsin.runtime.diagnosis.selftest.run_selftest")
    run(cli.app, "selftest --json j --backend cuda --precision float")
    assert calls[0].arguments == ("cuda", "float", Path("j"))
    run(cli.app, "selftest")
    assert calls[1].arguments == ("cpu", "auto", None)


def test_doctor(catch: Catch) -> None:
    calls = catch("dsin.runtime.diagnosis.doctor.run_doctor")
    run(cli.app, "doctor --json j")
    assert calls[0].arguments == (Path("j"),)


def test_benchmark(catch: Catch) -> None:
    calls = catch("dsin.runtime.evaluation.benchmark.run_benchmark")
    run(
        cli.app,
        "benchmark --bundle b --bundle c --backend cpu --backend cuda --rate 1 --frames 9 "
        "--pairs l --root r --crop 80x96 --json j --markdown m",
    )
    expected = {
        "bundles": ["b", "c"], "backends": ["cpu", "cuda"], "rate": 1, "frames": 9,
        "pairs": Path("l"), "root": Path("r"), "crop": (80, 96),
    }  # fmt: skip
    assert calls[0].fields(expected) == expected
    assert calls[0].arguments[1:] == (Path("j"), Path("m"))
    run(cli.app, "benchmark")
    expected = {
        "bundles": (), "backends": [], "rate": None, "frames": 3, "pairs": None, "crop": None,
    }  # fmt: skip
    assert calls[1].fields(expected) == expected
    assert calls[1].arguments[1:] == (None, None)


def test_try(catch: Catch) -> None:
    calls = catch("dsin.runtime.evaluation.two_pictures.run_try")
    run(cli.app, "try l.png r.png -o p.html --bundle paper --rate 0 --backend cuda")
    assert calls[0].arguments == (Path("l.png"), Path("r.png"), Path("p.html"))
    assert calls[0].options == {"bundle": "paper", "rate": 0, "backend": "cuda"}
    run(cli.app, "try l.png r.png --precision int8 --look sharp")
    assert calls[1].arguments[2] == Path("dsin-try.html")
    assert calls[1].options == {"bundle": "edge@int8@sharp", "rate": None, "backend": "cpu"}


def test_tries_parts_get_what_they_were_asked_for(catch: Catch, tmp_path: Path) -> None:
    from dsin.runtime.evaluation import two_pictures as module

    done = SimpleNamespace(
        result=SimpleNamespace(size=1, psnr_db=1.0), help=SimpleNamespace(gain_db=1.0)
    )
    tried = catch("dsin.runtime.evaluation.two_pictures.try_pictures", done)
    catch("dsin.runtime.evaluation.two_pictures_page.to_html", "<page>")
    module.run_try(
        Path("l"), Path("r"), tmp_path / "p.html", bundle="paper", rate=0, backend="cuda"
    )
    assert tried[0].arguments[:5] == (Path("l"), Path("r"), "paper", 0, "cuda")
    assert (tmp_path / "p.html").read_text() == "<page>"


def test_evaluate(catch: Catch) -> None:
    calls = catch("dsin.runtime.evaluation.evaluate.evaluate_list")
    run(
        cli.app,
        "evaluate --pairs l --root r --bundle paper --json j --rate 0 --crop 80x96 "
        "--save-images s --against hevc,jpeg --plot p --backend cuda --precision float "
        "--look structure",
    )
    assert calls[0].arguments == (Path("l"), Path("r"))
    assert calls[0].options == {
        "bundle": "paper@float@structure", "rate": 0, "crop": (80, 96), "json_path": Path("j"),
        "save_images": Path("s"), "backend": "cuda", "against": ["hevc", "jpeg"],
        "plot": Path("p"), "in_order": False,
    }  # fmt: skip


def test_evaluate_of_a_recording(catch: Catch) -> None:
    calls = catch("dsin.runtime.evaluation.evaluate.evaluate_list")
    pairs = catch(
        "dsin.runtime.sources.pair_list.pair_list_of", nullcontext((Path("l"), Path("r")))
    )
    run(cli.app, "evaluate --source bag:b,x=/l --side bag:b,y=/r --frames 3")
    assert pairs[0].arguments == ("bag:b,x=/l", "bag:b,y=/r", 3)
    assert calls[0].arguments == (Path("l"), Path("r"))
    run(cli.app, "evaluate --kitti d --rate 1 --against h264-lowdelay")
    assert pairs[1].arguments == ("d", None, None)
    expected: dict[str, Any] = {"rate": 1, "against": ["h264-lowdelay"], "in_order": True}
    assert subset(calls[1].options, expected) == expected


def test_evaluations_parts_get_what_it_was_asked_for(catch: Catch, tmp_path: Path) -> None:
    from dsin.runtime.evaluation import evaluate as module

    report = {"images": [], "bundle": "b", "mean": {}}
    calls, printed = (
        catch("dsin.runtime.evaluation.evaluate.evaluate", report),
        catch("dsin.runtime.evaluation.evaluate.print_mean"),
    )
    compared = catch("dsin.runtime.evaluation.evaluate._compare", {})
    write_image(tmp_path / "x.png", np.zeros((40, 48, 3), np.uint8))
    (tmp_path / "l").write_text("x.png\nx.png\n")
    module.evaluate_list(
        tmp_path / "l", tmp_path, bundle="paper", rate=0, crop=(40, 48), backend="cuda",
        save_images=tmp_path / "s", against=["jpeg"], plot=tmp_path / "p",
    )  # fmt: skip
    expected: dict[str, Any] = {
        "rate": 0, "crop": (40, 48), "save_images": tmp_path / "s", "backend": "cuda",
    }  # fmt: skip
    assert subset(calls[0].options, expected) == expected
    assert calls[0].arguments[0].path.name == "paper"
    assert [rival.name for rival in calls[0].options["others"]] == ["jpeg"]
    assert compared[0].arguments[2:4] == ((40, 48), "cuda")
    assert compared[0].arguments[5] == tmp_path / "p"
    assert len(printed) == 1


def test_pairs(catch: Catch) -> None:
    done = SimpleNamespace(train=7, validation=2)
    calls = catch("dsin.runtime.sources.pair_list.write_pairs", done)
    out = run(cli.app, "pairs s -o o --side t --frames 9 --every 3 --val-share 0.25")
    assert calls[0].arguments == ("s", Path("o"))
    expected = {"side": "t", "frames": 9, "every": 3, "validation": 0.25}
    assert subset(calls[0].options, expected) == expected
    assert "train.txt with 7 pairs, val.txt with 2" in out
    run(cli.app, "pairs s -o o")
    expected = {"side": None, "frames": None, "every": 1, "validation": 0.1}
    assert subset(calls[1].options, expected) == expected


TRAIN = (
    "train PRESET --pairs p --val v --root r --photos f --out o --resume --start-from c.pt "
    "--budget-s 9 --json j --no-graphs --devices 2 --nodes 3"
)


def test_train(catch: Catch) -> None:
    calls = catch("dsin.training.train_command.train_preset", "best")
    run(cli.app, TRAIN)
    preset, pictures, out, options = calls[0].arguments
    assert (preset, out) == ("PRESET", Path("o"))
    assert (pictures.pairs, pictures.validation, pictures.root) == (Path("p"), Path("v"), Path("r"))
    assert (pictures.photos, pictures.pack) == (Path("f"), None)
    expected = {
        "start_from": Path("c.pt"), "resume": True, "devices": 2, "nodes": 3, "budget_s": 9,
        "json_path": Path("j"), "graphs": False,
    }  # fmt: skip
    assert {name: getattr(options, name) for name in expected} == expected
    run(cli.app, "train PRESET --pack k -o p")
    assert calls[1].arguments[2] == Path("p")
    assert calls[1].arguments[1].pack == Path("k")
    assert (calls[1].arguments[3].resume, calls[1].arguments[3].graphs) == (False, True)


def test_trainings_parts_get_what_it_was_asked_for(catch: Catch, tmp_path: Path) -> None:
    from dsin.training import train_command as module
    from dsin.training.edge.train import EdgeOptions

    for name in ("x", "y", "photo"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        folder = tmp_path / "photos" if name == "photo" else tmp_path
        write_image(folder / f"{name}.png", np.zeros((40, 48, 3), np.uint8))
    (tmp_path / "train.txt").write_text("x.png\ny.png\n" * 2)
    (tmp_path / "val.txt").write_text("y.png\nx.png\n")
    edge = catch("dsin.training.train_command.train_edge")
    paper = catch("dsin.training.train_command.train")
    given = module.PictureOptions(tmp_path / "train.txt", tmp_path / "val.txt", tmp_path)
    options = EdgeOptions(Path("c.pt"), True, 2, 3)
    module.train_preset("paper", given, tmp_path / "out", options)
    pairs, validation = paper[0].arguments[1:3]
    assert [(p.x.name, p.y.name) for p in pairs] == [("x.png", "y.png")] * 2
    assert [(p.x.name, p.y.name) for p in validation] == [("y.png", "x.png")]
    assert paper[0].arguments[3] == tmp_path / "out"
    expected = {"start_from": Path("c.pt"), "resume": True, "devices": 2, "nodes": 3}
    assert paper[0].options == expected
    with_photos = module.PictureOptions(
        tmp_path / "train.txt", tmp_path / "val.txt", tmp_path, tmp_path / "photos"
    )
    module.train_preset("edge", with_photos, tmp_path / "out", options)
    data, out, same = edge[0].arguments[1:]
    assert [Path(p.name).name for p in data.photos] == ["photo.png"]
    assert (len(data.pairs), len(data.validation)) == (2, 1)
    assert (out, same) == (tmp_path / "out", options)


def test_calibrate(catch: Catch) -> None:
    report = {"speed_ratio": {}, "bd_rate_percent": None, "graphs": {}}
    done = SimpleNamespace(report=report, bytes_before=2_000_000, bytes_after=1_000_000)
    calls = catch("dsin.export.int8_bundle.calibrate_bundle", done)
    read = catch("dsin.export.calibration_frames.read_frames", "frames")
    listed = catch("dsin.runtime.evaluation.pairs.read_pair_list", "pairs")
    out = run(
        cli.app,
        "calibrate b --frames f -o o --target tensorrt --val v --root r --crop 80x96",
    )
    assert calls[0].arguments == ("b", "frames", Path("o"))
    assert calls[0].options == {"target": "tensorrt", "crop": (80, 96), "validation": "pairs"}
    assert read[0].arguments == (Path("f"), Path("r"))
    assert listed[0].arguments == (Path("v"), Path("r"))
    assert out == "wrote o: 1.0 MB instead of 2.0\n"


def test_calibrate_reports_speed_and_loss(catch: Catch) -> None:
    report: dict[str, Any] = {
        "speed_ratio": {"encoder": 1.5, "x_decoder": 2.25},
        "graphs": {"encoder": {"relative_error": 0.0123}, "x_decoder": {"relative_error": 0.5}},
        "bd_rate_percent": {"psnr": 1.25, "ms_ssim": -0.5},
    }
    done = SimpleNamespace(report=report, bytes_before=2_000_000, bytes_after=500_000)
    catch("dsin.export.int8_bundle.calibrate_bundle", done)
    catch("dsin.export.calibration_frames.read_frames")
    lines = [
        "encoder    1.50 times as fast, error 1.2 % of variance",
        "x_decoder  2.25 times as fast, error 50 % of variance",
        "BD-rate    +1.25 % in PSNR, -0.50 % in MS-SSIM against the float bundle",
        "wrote o: 0.5 MB instead of 2.0",
    ]
    assert run(cli.app, "calibrate b --frames f -o o").splitlines() == lines
    report["bd_rate_percent"]["psnr"] = None  # the curves do not overlap
    lines[2] = "BD-rate    -0.50 % in MS-SSIM against the float bundle"
    assert run(cli.app, "calibrate b --frames f -o o").splitlines() == lines


@pytest.mark.parametrize(
    ("missing", "line", "extra"),
    [
        ("dsin.export.int8_bundle", "calibrate b --frames f -o o", "export,evaluate"),
        ("dsin.export.calibration_frames", "calibrate b --frames f -o o", "export"),
        ("dsin.training.paper.tf_checkpoint", "import-tf c -o o", "tf-import"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, missing: str, line: str, extra: str
) -> None:
    """And a module that is missing in dsin itself is a fault of its own."""
    lacking = ["onnx"]
    really = cli.importlib.import_module

    def load(name: str) -> Any:
        if name == missing:
            raise ModuleNotFoundError("missing", name=lacking[0])
        return really(name)

    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=load))
    command = line.split()[0]
    with pytest.raises(DsinError) as raised:
        run(cli.app, line)
    assert str(raised.value) == (
        f"dsin {command} needs onnx, which is missing: pip install 'dsin[{extra}]'"
    )
    lacking[0] = "dsin.absent"
    with pytest.raises(ModuleNotFoundError):
        run(cli.app, line)


@pytest.mark.parametrize(("app", "name"), [(cli.app, "dsin"), (export_cli.app, "dsin-export")])
def test_version(app: typer.Typer, name: str) -> None:
    assert run(app, "--version") == f"{name} {__version__}\n"


def test_import_tf(catch: Catch) -> None:
    calls = catch("dsin.training.paper.tf_checkpoint.import_tf")
    out = run(cli.app, "import-tf c -o o.pt")
    assert calls[0].arguments == (Path("c"), Path("o.pt"))
    assert "o.pt: export it with dsin-export onnx o.pt -o BUNDLE" in out


def test_export_onnx(catch: Catch, tmp_path: Path) -> None:
    calls = catch("dsin.export.write_bundle.write_bundle", [])
    read = catch("dsin.export.calibration_frames.read_frames", "frames")
    run(
        export_cli.app,
        "onnx c.pt --weights float16 --frames f --root r --name n --licence l -o", tmp_path,
    )  # fmt: skip
    assert calls[0] == Call(
        (Path("c.pt"), tmp_path),
        {"weights": "float16", "calibration_frames": "frames", "name": "n", "licence": "l"},
    )
    assert read[0].arguments == (Path("f"), Path("r"))
    run(export_cli.app, "onnx c.pt -o", tmp_path)
    assert calls[1].options["weights"] == "float32"
    assert calls[1].options["calibration_frames"] is None


def test_export_trt(catch: Catch) -> None:
    calls = catch("dsin.export.tensorrt_engine.build_engines")
    run(
        export_cli.app,
        "trt b --precision fp16 --frame 80x96 -o o --dla --workspace-mib 64 --timing-cache t",
    )
    bundle, options, out = calls[0].arguments
    assert (bundle, out) == ("b", Path("o"))
    expected = {
        "precision": "fp16", "frame": (80, 96), "dla": True, "workspace_mib": 64,
        "timing_cache": Path("t"),
    }  # fmt: skip
    assert {name: getattr(options, name) for name in expected} == expected


def test_export_checkpoint_decoder_and_verify(catch: Catch, tmp_path: Path) -> None:
    restored = catch("dsin.export.restore.restore_checkpoint")
    run(export_cli.app, "checkpoint b -o c.pt")
    assert restored[0].arguments == ("b", Path("c.pt"))
    written = catch("dsin.export.edge.decoder.write_edge_decoder", 1)
    run(export_cli.app, "decoder edge -o d.onnx")
    assert (written[0].arguments[0].path.name, written[0].arguments[1]) == ("edge", Path("d.onnx"))
    verified = catch("dsin.export.verify_backends.verify_backends", [])
    read = catch("dsin.export.calibration_frames.read_frames", "frames")
    run(export_cli.app, "verify paper --frames f --root r --backend cuda --backend cpu")
    assert (verified[0].arguments[0].path.name, verified[0].arguments[1]) == ("paper", "frames")
    assert set(verified[0].options["wanted"]) == {"cpu", "cuda"}
    assert read[0].arguments == (Path("f"), Path("r"))
    again = catch("dsin.export.edge.recalibrate.recalibrate_bundle")
    run(export_cli.app, "int8 b --frames f --root r -o", tmp_path)
    assert again[0].arguments == ("b", "frames", tmp_path)
    assert read[1].arguments == (Path("f"), Path("r"))
    packed = catch("dsin.export.edge.recalibrate.repack_bundle")
    run(export_cli.app, "int8 b -o", tmp_path)
    assert packed[0].arguments == ("b", tmp_path)


@pytest.mark.parametrize(
    ("line", "name", "given"),
    [
        ("refit b c.pt", "dsin.export.edge.refit.refit_bundle", ("b", Path("c.pt"))),
        (
            "look b c.pt --look sharp",
            "dsin.export.edge.look.add_look",
            ("b", "sharp", Path("c.pt"), []),
        ),
        ("combine b q", "dsin.export.edge.combine.combine_bundles", ("b", "q")),
    ],
)
def test_export_of_a_bundle_with_other_networks(
    catch: Catch, tmp_path: Path, line: str, name: str, given: tuple[object, ...]
) -> None:
    calls = catch(name)
    (tmp_path / "graph").write_bytes(bytes(2_500_000))
    assert "2.5 MB" in run(export_cli.app, f"{line} -o", tmp_path)
    assert calls[0].arguments == (*given, tmp_path)


def test_encode_and_decode(catch: Catch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dsin.runtime import Encoder, Packet

    bundle = "paper"
    image = np.zeros((40, 48, 3), np.uint8)
    write_image(tmp_path / "x.png", image)
    with Encoder(bundle) as encoder:
        packet = encoder.encode(image)
    (tmp_path / "x.dsin").write_bytes(bytes(packet))

    class Coder(SimpleNamespace):
        def __enter__(self) -> "Coder":
            return self

        def __exit__(self, *_: object) -> None: ...

    encoded: list[tuple[Any, ...]] = []
    decoded: list[tuple[Any, ...]] = []

    def encode(frame: Any, rate: int | None) -> Packet:
        encoded.append((frame.shape, rate))
        return packet

    def decode(coded: Packet, side: Any) -> Any:
        decoded.append((bytes(coded), None if side is None else side.shape))
        return SimpleNamespace(image=image, used_side=side is not None, matches=None)

    encoders = catch("dsin.runtime.codec.encoder.Encoder", Coder(encode=encode))
    decoders = catch("dsin.runtime.codec.decoder.Decoder", Coder(decode=decode))
    monkeypatch.chdir(tmp_path)
    run(cli.app, "encode x.png -o y.dsin --bundle paper --rate 0 --backend cuda --precision float")
    assert encoders[0].arguments == ("paper@float", "cuda")
    assert encoded == [((40, 48, 3), 0)]
    assert (tmp_path / "y.dsin").read_bytes() == bytes(packet)
    run(cli.app, "decode x.dsin --side x.png -o z.png --bundle paper --backend cuda")
    run(cli.app, "decode x.dsin --no-side -o w.png")
    run(cli.app, "decode x.dsin --no-side -o w.png --bundle paper --precision int8 --look sharp")
    expected = [("paper", "cuda"), (None, "cpu"), ("paper@int8@sharp", "cpu")]
    assert [call.arguments for call in decoders] == expected
    assert decoded == [(bytes(packet), (40, 48, 3)), *[(bytes(packet), None)] * 2]
    assert (tmp_path / "z.png").is_file()
    assert (tmp_path / "w.png").is_file()


def test_info_is_told_in_lines_or_as_json(tmp_path: Path) -> None:
    """A bundle in a few lines, unless everything is wanted."""
    header = PacketHeader(b"\x01\x02\x03\x04\x05\x06", 48, 32, 2, 7, 1234)
    packet = Packet(header, bytes(100))
    path = tmp_path / "x.dsin"
    path.write_bytes(bytes(packet))
    facts = {"packet": str(path), **packet_facts(packet)}
    assert run(cli.app, "info", path) == as_lines(facts) + "\n"
    assert run(cli.app, "info --json", path) == json.dumps(facts, indent=1) + "\n"
    bundle = open_bundle("paper")
    assert run(cli.app, "info paper") == f"{bundle}\n"
    everything = bundle_facts(bundle)
    assert run(cli.app, "info --verbose paper") == as_lines(everything) + "\n"
    assert run(cli.app, "info --json paper") == json.dumps(everything, indent=1) + "\n"
