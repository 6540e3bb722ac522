"""`dsin serve`: which servers and outputs it has, and what it says."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.commands import serve as module
from dsin.runtime.commands.serve import ServeOptions, serve
from dsin.runtime.errors import StreamError
from dsin.runtime.fleet.decoders import FleetOptions
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.outputs.sinks import SinkRunners


@pytest.fixture
def sinks() -> Iterator[SinkRunners]:
    sinks = SinkRunners()
    yield sinks
    sinks.close()


@pytest.mark.parametrize(
    ("web", "metrics", "ports", "urls", "outputs"),
    [
        (None, None, [], ([], []), []),
        (81, None, [81], (["http://host:81/"], []), ["metrics", "web"]),
        (None, 82, [82], ([], ["http://host:82/"]), ["metrics"]),
        (81, 82, [81, 82], (["http://host:81/"], ["http://host:82/"]), ["metrics", "web"]),
        (81, 81, [81], (["http://host:81/"], []), ["metrics", "web"]),
        (0, 0, [0, 0], (["http://host:0/"], ["http://host:0/"]), ["metrics", "web"]),
    ],
)
def test_metrics_are_beside_the_page_or_on_a_port_of_their_own(
    monkeypatch: pytest.MonkeyPatch, sinks: SinkRunners, web: int | None, metrics: int | None,
    ports: list[int], urls: tuple[list[str], list[str]], outputs: list[str],
) -> None:  # fmt: skip
    """Both get every frame, whichever server they are on; port 0 is another one each time."""
    opened: list[int] = []

    class Server:
        def __init__(self, host: str, port: int, routes: Any) -> None:
            opened.append(port)
            self.url = f"http://{host}:{port}/"

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("dsin.runtime.web.http_server.HttpServer", Server)
    options = ServeOptions("127.0.0.1:0", web=web, metrics=metrics, web_host="host")
    with ExitStack() as stack:
        served = module._serve_http(stack, options, open_bundle("paper"), list, sinks, Counter())
    assert (opened, served) == (ports, urls)
    assert [runner.name for runner in sinks] == outputs


def test_a_live_view_is_an_output(monkeypatch: pytest.MonkeyPatch, sinks: SinkRunners) -> None:
    class Live:
        name, url = "foxglove", "ws://host:83"

        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert arguments == ("host", 83, list)

        def close(self) -> None: ...

    monkeypatch.setattr("dsin.runtime.outputs.foxglove_sink.FoxgloveSink", Live)
    bundle = open_bundle("paper")
    options = ServeOptions("127.0.0.1:0", web_host="host", foxglove=83)
    assert module._serve_foxglove(options, bundle, list, sinks) == "ws://host:83"
    assert [runner.name for runner in sinks] == ["foxglove"]
    assert module._serve_foxglove(ServeOptions("127.0.0.1:0"), bundle, list, sinks) is None
    assert [runner.name for runner in sinks] == ["foxglove"]


def test_somebody_has_to_decode() -> None:
    options = ServeOptions("127.0.0.1:0", workers=0)
    with ExitStack() as stack, pytest.raises(StreamError) as refused:
        module._open_workers(stack, options, open_bundle("paper"), [(32, 48)])
    assert str(refused.value) == "0 workers: at least one has to decode"


def test_a_fleet_has_two_callers_for_each_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are let go of before the fleet."""
    told: list[str] = []

    class Fleet:
        def __init__(self, handle: str) -> None:
            told.append(handle)

        def close(self) -> None:
            told.append("closed")

    @contextmanager
    def start(options: Any) -> Iterator[str]:
        yield f"{options.replicas} replicas"
        told.append("ended")

    monkeypatch.setattr("dsin.runtime.fleet.decoders.start_fleet", start)
    monkeypatch.setattr("dsin.runtime.fleet.decoders.BlockingFleet", Fleet)
    monkeypatch.setattr("dsin.runtime.fleet.worker.FleetWorker", lambda *given: given)
    bundle = open_bundle("paper")
    options = ServeOptions("127.0.0.1:0", fleet=FleetOptions(replicas=3))
    with ExitStack() as stack:
        workers: Any = module._open_workers(stack, options, bundle, [(32, 48)])
        assert [(given, type(fleet)) for given, fleet in workers] == [(bundle, Fleet)] * 6
        assert told == ["3 replicas"]
    assert told == ["3 replicas", "closed", "ended"]


RIGS = [
    SimpleNamespace(
        rig="front", side_uses={"paired": 7, "previous": 0, "missing": 2}, decoded=9, superseded=3,
        rejected=1,
    ),
    SimpleNamespace(rig="rear", side_uses={"paired": 0}, decoded=0, superseded=0, rejected=0),
]  # fmt: skip
FILES = [
    SimpleNamespace(name="video", paths=["v-front.mp4", "v-rear.mp4"]),
    SimpleNamespace(name="mcap", paths=[]),
]
SUMMARY = [
    "stopping",
    "rig front: 9 decoded (side image: 7 paired, 2 missing), 3 superseded, 1 rejected",
    "rig rear: 0 decoded (side image: none), 0 superseded, 0 rejected",
    "video: v-front.mp4, v-rear.mp4",
]


def said_by(
    monkeypatch: pytest.MonkeyPatch, options: ServeOptions, **shown: Any
) -> list[str]:  # fmt: skip
    """What a server says that is told to stop as soon as it serves."""
    stops: list[Callable[[], object]] = []
    server = SimpleNamespace(
        address="127.0.0.1:7", networks="float", status=lambda: RIGS, files=FILES,
        **{"urls": [], "metrics_urls": [], "foxglove_url": None, **shown},
    )  # fmt: skip

    @contextmanager
    def running(given: ServeOptions) -> Iterator[Any]:
        assert given is options
        threading.Timer(0.01, stops[0]).start()
        yield server
        said.append("(closed)")

    monkeypatch.setattr(module, "running_server", running)
    monkeypatch.setattr(module, "has_kernels", lambda room: True)
    monkeypatch.setattr(module, "on_ending", stops.append)
    said: list[str] = []
    serve(options, said.append)
    assert said.index("(closed)") == said.index("stopping") + 1
    said.remove("(closed)")
    return said


def test_a_server_says_where_it_is_and_what_became_of_the_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = ServeOptions("127.0.0.1:0")
    assert said_by(monkeypatch, plain) == [
        "serving at 127.0.0.1:7 (plaintext), networks float", *SUMMARY,
    ]  # fmt: skip
    secured = ServeOptions(
        "127.0.0.1:0", certificates=Certificates(*map(Path, ("ca", "cert", "key")))
    )
    assert said_by(
        monkeypatch, secured, urls=["http://host:81/"], metrics_urls=["http://host:82/"],
        foxglove_url="ws://host:83",
    ) == [
        "serving at 127.0.0.1:7 (TLS), networks float",
        "open http://host:81/",
        "metrics at http://host:82/metrics",
        "open ws://host:83 in Foxglove",
        *SUMMARY,
    ]  # fmt: skip
