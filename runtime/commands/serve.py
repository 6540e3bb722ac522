"""`dsin serve`: decoders, side cameras, outputs, page and gRPC server, put together.

cameras ══► StreamServer ─► DecodePool ─► sinks: files, recordings, page, metrics
                               ▲
--side ─► SideCameras ─────────┘
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsin.runtime.backends.session import Backend
from dsin.runtime.caches import has_kernels
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.precision import at_precision, precision_of
from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.outputs import FileSink, Outputs
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.outputs.sinks import Sink, SinkRunners
from dsin.runtime.server.address_checks import check_address, check_http_ports, check_packages
from dsin.runtime.server.decode_worker import DecodeWorker
from dsin.runtime.server.rig_server import USUAL_SIZE, Serving, decoding, local_workers
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import SideCameras
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.signals import on_ending
from dsin.runtime.trace import check_trace_path, tracing

if TYPE_CHECKING:
    from dsin.runtime.fleet.decoders import FleetOptions
    from dsin.runtime.outputs.foxglove_sink import Original

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """What `dsin serve` was asked for.

    `address` is HOST:PORT of the gRPC server; `web` and `metrics` are ports of HTTP servers at
    `web_host`, the first one with the page; `foxglove` is the port of a live view for Foxglove
    there, to which `original` gives what a frame was coded from, if that is known. `budget_mib`
    limits the memory of all rigs together (None: half of the machine's). `sides` are the server's
    own side cameras
    (dsin.runtime.server.side_cameras).
    """

    address: str
    bundle: str | None = None
    backend: Backend = "cpu"
    workers: int = 1
    budget_mib: float | None = None
    sides: Sequence[str] = ()
    policy: PairingPolicy = field(default_factory=PairingPolicy)
    certificates: Certificates | None = None
    outputs: Outputs = field(default_factory=Outputs)
    web: int | None = None
    metrics: int | None = None
    foxglove: int | None = None
    original: "Original | None" = None
    web_host: str = "127.0.0.1"
    health: bool = True
    fleet: "FleetOptions | None" = None
    """Decode on Ray Serve instead of here."""
    trace: Path | None = None
    """Gets a time line of this process."""
    datagrams: bool = True
    """Whether frames may come in datagrams, beside gRPC."""


@dataclass(frozen=True)
class RunningServer(Serving):
    """A server that runs; `urls` are those of its page, `metrics_urls` of metrics alone."""

    urls: Sequence[str]
    metrics_urls: Sequence[str]
    networks: str
    """What the networks compute in."""
    files: Sequence[FileSink]
    """The outputs; each tells which files it has begun."""
    foxglove_url: str | None = None


@contextmanager
def running_server(
    options: ServeOptions,
    bundle: Bundle | None = None,
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> Iterator[RunningServer]:
    """`dsin.runtime.server.serving` with files, page, metrics and fleet. Raises DsinError for
    an address, a bundle, a camera or a file that cannot be opened."""
    host, port = check_address(options.address, options.certificates)
    ports = [("--web", options.web), ("--metrics", options.metrics)]
    http = any(number is not None for _, number in ports)
    check_packages(health=options.health, http=http)
    check_http_ports(options.web_host, [*ports, ("--foxglove", options.foxglove)])
    opened = bundle or open_bundle(options.bundle)
    with ExitStack() as stack:
        sides = SideCameras(options.sides)
        workers = _open_workers(stack, options, opened, sides.sizes or [USUAL_SIZE])
        pool, sinks = stack.enter_context(
            decoding(workers, options.policy, on_frame, options.budget_mib)
        )
        # A fleet's replicas may run on other processors, which choose for themselves.
        used = opened if options.fleet else at_precision(opened, options.backend)
        networks = precision_of(used)
        strangers: Counter[str] = Counter()
        urls, metrics_urls = _serve_http(stack, options, used, pool.status, sinks, strangers)
        foxglove_url = _serve_foxglove(options, used, pool.status, sinks)
        # After whatever may still fail, so that nothing is begun in vain.
        files = options.outputs.open()
        sinks.add(files)
        stack.enter_context(sides)
        server = stack.enter_context(
            StreamServer(
                pool, host, port,
                certificates=options.certificates, sides=sides, health=options.health,
                datagrams=options.datagrams, strangers=strangers,
            )
        )  # fmt: skip
        yield RunningServer(
            host, server.port, pool.status, urls, metrics_urls, networks, files, foxglove_url
        )


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it. `announce` is told where, once all is ready."""
    stop = threading.Event()
    on_ending(stop.set)
    if not has_kernels("patch_correlation"):
        announce("starting for the first time here: compiling takes about a minute")
    check_trace_path(options.trace)
    with running_server(options) as server, tracing(options.trace, "server"):
        kind = "plaintext" if options.certificates is None else "TLS"
        announce(f"serving at {server.address} ({kind}), networks {server.networks}")
        for url in server.urls:
            announce(f"open {url}")
        for url in server.metrics_urls:
            announce(f"metrics at {url}metrics")
        if server.foxglove_url is not None:
            announce(f"open {server.foxglove_url} in Foxglove")
        stop.wait()
        announce("stopping")
    for line in _summary(server):
        announce(line)


def _summary(server: RunningServer) -> Iterator[str]:
    """What became of the frames, and where they are."""
    for rig in server.status():
        uses = ", ".join(f"{count} {use}" for use, count in rig.side_uses.items() if count)
        yield (
            f"rig {rig.rig}: {rig.decoded} decoded (side image: {uses or 'none'}), "
            f"{rig.superseded} superseded, {rig.rejected} rejected"
        )
    for sink in server.files:
        if sink.paths:
            yield f"{sink.name}: {', '.join(map(str, sink.paths))}"


def _serve_http(
    stack: ExitStack,
    options: ServeOptions,
    bundle: Bundle,
    status: Callable[[], list[RigStatus]],
    sinks: SinkRunners,
    strangers: Counter[str],
) -> tuple[list[str], list[str]]:
    """Start the HTTP servers that are wanted; URLs of the page, and of metrics alone."""
    if options.web is None and options.metrics is None:
        return [], []
    from dsin.runtime.web.health import Health
    from dsin.runtime.web.http_server import HttpServer
    from dsin.runtime.web.page import WebPage
    from dsin.runtime.web.prometheus_metrics import Metrics, SinkCounts

    metrics = Metrics(
        status,
        lambda: {r.name: SinkCounts(r.taken, r.missed, r.failed) for r in sinks},
        {"bundle": bundle.path.name, "precision": precision_of(bundle)},
        strangers,
    )
    health = Health(status)
    own: list[Sink] = [metrics]
    alone = [metrics.routes(), health.routes()]
    urls: list[str] = []
    metrics_urls: list[str] = []
    if options.web is not None:
        page = WebPage(status, patch=bundle.search.patch, networks=precision_of(bundle))
        own.append(page)
        routes = [page.routes(), *alone]
        urls.append(stack.enter_context(HttpServer(options.web_host, options.web, routes)).url)
    # With the port of the page, metrics are beside it.
    if options.metrics is not None and (options.metrics != options.web or options.metrics == 0):
        server = stack.enter_context(HttpServer(options.web_host, options.metrics, alone))
        metrics_urls.append(server.url)
    sinks.add(own)
    stack.callback(health.stop)
    return urls, metrics_urls


def _serve_foxglove(
    options: ServeOptions,
    bundle: Bundle,
    status: Callable[[], list[RigStatus]],
    sinks: SinkRunners,
) -> str | None:
    """Start the live view, if it is wanted; its URL."""
    if options.foxglove is None:
        return None
    from dsin.runtime.outputs.foxglove_sink import FoxgloveSink

    sink = FoxgloveSink(
        options.web_host, options.foxglove, status, patch=bundle.search.patch,
        original=options.original,
    )  # fmt: skip
    sinks.add([sink])
    return sink.url


def _open_workers(
    stack: ExitStack, options: ServeOptions, bundle: Bundle, sizes: Sequence[tuple[int, int]]
) -> list[DecodeWorker]:
    """Decoders of this process, warmed up for these sizes, or threads that call a fleet."""
    if options.workers < 1:
        raise StreamError(f"{options.workers} workers: at least one has to decode")
    if options.fleet is not None:
        from dsin.runtime.fleet.decoders import BlockingFleet, start_fleet
        from dsin.runtime.fleet.worker import FleetWorker

        fleet = BlockingFleet(stack.enter_context(start_fleet(options.fleet)))
        stack.callback(fleet.close)
        # Two calls for each decoder: one is decoded while another one is on its way.
        return [FleetWorker(bundle, fleet) for _ in range(2 * options.fleet.replicas)]
    decoders = local_workers(bundle, options.backend, options.workers, sizes)
    return stack.enter_context(decoders)
