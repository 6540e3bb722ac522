"""`dsin serve`: decoders, side cameras, outputs, page and gRPC server, put together.

cameras ══► StreamServer ─► DecodePool ─► sinks: files, recordings, page, metrics
                               ▲
--side ─► SideCameras ─────────┘
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.commands.serve_checks import check_address, check_http_ports, check_packages
from dsin.runtime.compiled import has_kernels
from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import Certificates, join_address
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.outputs import FileSink, Outputs
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.outputs.sinks import Sink, SinkRunner
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import DecodeWorker, LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import SideCameras
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.signals import on_ending
from dsin.runtime.sources.warm_up import warm_up

if TYPE_CHECKING:
    from dsin.runtime.fleet.decoders import FleetOptions

LOG = logging.getLogger(__name__)
USUAL_SIZE = (375, 1242)
"""Decoders are warmed up for it (KITTI's) where the size of frames is not known yet."""


@dataclass(frozen=True)
class ServeOptions:
    """What `dsin serve` was asked for.

    `address` is HOST:PORT of the gRPC server; `web` and `metrics` are ports of HTTP servers at
    `web_host`, the first one with the page. `budget_mib` limits the memory of all rigs together
    (None: half of the machine's). `sides` are the server's own side cameras (dsin.runtime.
    side_cameras).
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
    web_host: str = "127.0.0.1"
    health: bool = True
    fleet: "FleetOptions | None" = None
    """Decode on Ray Serve instead of here."""


@dataclass(frozen=True)
class Serving:
    """A server that runs; `urls` are those of its page, `metrics_urls` of metrics alone."""

    host: str
    port: int
    urls: Sequence[str]
    metrics_urls: Sequence[str]
    status: Callable[[], list[RigStatus]]
    files: Sequence[FileSink]
    """The outputs; each tells which files it has begun."""

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return join_address(self.host, self.port)


@contextmanager
def serving(
    options: ServeOptions,
    bundle: Bundle | None = None,
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> Iterator[Serving]:
    """A server while the block lasts. `on_frame` is called by the decoding threads and may make
    them wait, which sinks never do. Raises DsinError for whatever cannot be had."""
    host, port = check_address(options.address, options.certificates)
    ports = [("--web", options.web), ("--metrics", options.metrics)]
    http = any(number is not None for _, number in ports)
    check_packages(health=options.health, http=http)
    check_http_ports(options.web_host, ports)
    opened = bundle or open_bundle(options.bundle)
    with ExitStack() as stack:
        sides = SideCameras(options.sides)
        sinks = _Sinks()
        stack.callback(sinks.close)
        workers = _open_workers(stack, options, opened, sides.sizes or [USUAL_SIZE])

        def take(frame: DecodedFrame) -> None:
            on_frame(frame)
            sinks.offer(frame)

        budget_mib = _half_of_memory_mib() if options.budget_mib is None else options.budget_mib
        pool = stack.enter_context(DecodePool(workers, options.policy, take, budget_mib=budget_mib))
        urls, metrics_urls = _serve_http(stack, options, opened, pool.status, sinks)
        # After whatever may still fail, so that nothing is begun in vain.
        files = options.outputs.open()
        sinks.add(files)
        stack.enter_context(sides)
        server = stack.enter_context(
            StreamServer(
                pool, host, port,
                certificates=options.certificates, sides=sides, health=options.health,
            )
        )  # fmt: skip
        yield Serving(host, server.port, urls, metrics_urls, pool.status, files)


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it. `announce` is told where, once all is ready."""
    stop = threading.Event()
    on_ending(stop.set)
    if not has_kernels():
        announce("starting for the first time here: compiling takes about a minute")
    with serving(options) as server:
        kind = "plaintext" if options.certificates is None else "TLS"
        announce(f"serving at {server.address} ({kind})")
        for url in server.urls:
            announce(f"open {url}")
        for url in server.metrics_urls:
            announce(f"metrics at {url}metrics")
        stop.wait()
        announce("stopping")
    for line in _summary(server):
        announce(line)


def _summary(server: Serving) -> Iterator[str]:
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


class _Sinks:
    """All outputs, each in a thread of its own."""

    def __init__(self) -> None:
        self._runners: list[SinkRunner] = []

    def add(self, sinks: Sequence[Sink]) -> None:
        self._runners += [SinkRunner(sink) for sink in sinks]

    def offer(self, frame: DecodedFrame) -> None:
        for runner in self._runners:
            runner.offer(frame)

    @property
    def runners(self) -> Sequence[SinkRunner]:
        return self._runners

    def close(self) -> None:
        for runner in self._runners:
            runner.close()


def _serve_http(
    stack: ExitStack,
    options: ServeOptions,
    bundle: Bundle,
    status: Callable[[], list[RigStatus]],
    sinks: _Sinks,
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
        lambda: {r.name: SinkCounts(r.taken, r.missed, r.failed) for r in sinks.runners},
    )
    health = Health(status)
    own: list[Sink] = [metrics]
    alone = [metrics.routes(), health.routes()]
    urls: list[str] = []
    metrics_urls: list[str] = []
    if options.web is not None:
        page = WebPage(status, patch=bundle.search.patch)
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
    cores = len(os.sched_getaffinity(0))
    threads = None if options.workers == 1 else max(1, cores // options.workers)
    decoders = [
        stack.enter_context(Decoder(bundle, options.backend, threads=threads))
        for _ in range(options.workers)
    ]
    with Encoder(bundle, options.backend) as encoder:
        for decoder, size in product(decoders, sizes):
            warm_up(encoder, size, decoder)
    return [LocalWorker(decoder) for decoder in decoders]


def _half_of_memory_mib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / 2**20
