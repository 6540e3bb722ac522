"""A server within a program: decoders, a pool, sinks and the gRPC server, put together.

devices ══► StreamServer ─► DecodePool ─► on_frame, sinks
                               ▲
sides ──► SideCameras ─────────┘
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.scene_memory import SceneMemory
from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import Certificates, join_address
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.outputs.sinks import Sink, SinkRunners
from dsin.runtime.server.address_checks import check_address, check_packages
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import DecodeWorker, LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import SideCameras
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.sources.warm_up import warm_up

USUAL_SIZE = (375, 1242)
"""Decoders are warmed up for it (KITTI's) where the size of frames is not known yet."""


@dataclass(frozen=True)
class Serving:
    """A server that runs. `status` returns the state of each rig."""

    host: str
    port: int
    status: Callable[[], list[RigStatus]]

    @property
    def address(self) -> str:
        """HOST:PORT, for a Device."""
        return join_address(self.host, self.port)


@contextmanager
def serving(
    address: str,
    bundle: Bundle | str | Path | None = None,
    *,
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
    sinks: Sequence[Sink] = (),
    sides: Sequence[str] = (),
    certificates: Certificates | None = None,
    policy: PairingPolicy | None = None,
    backend: Backend = "cpu",
    workers: int = 1,
    budget_mib: float | None = None,
    size: tuple[int, int] = USUAL_SIZE,
    health: bool = False,
) -> Iterator[Serving]:
    """Serve rigs while the block lasts, without blocking it: threads do the work.

        with serving("127.0.0.1:0", on_frame=show) as server:
            print(server.address)

    `address` is HOST:PORT, and port 0 any free one. `bundle` is an open bundle, its directory or
    name, by default the shipped one. `on_frame` is called with each decoded frame by the thread
    that decoded it, which waits for it; each of `sinks` has a thread of its own, misses frames when
    it is too slow, and is closed at the end. `sides` are side cameras of the server as `dsin serve
    --side` takes them (SPEC or RIG=SPEC); a rig without one may send its side pictures itself.
    Without certificates only addresses of this machine are allowed. `policy` says which side image
    is near enough in time. `workers` decoders share the processor's cores; `budget_mib` limits the
    memory of all rigs (by default half of the machine's). Decoders are warmed up for frames of
    `size`, (height, width), or of the sizes of `sides`. `health` adds gRPC's health service.

    Raises StreamError for an address that cannot be listened at and BundleError, BackendError or
    FrameError for a bundle, a backend or a side camera that cannot be opened.
    """
    host, port = check_address(address, certificates)
    check_packages(health=health, http=False)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    with ExitStack() as stack:
        side_cameras = SideCameras(sides)
        decoders = stack.enter_context(
            local_workers(opened, backend, workers, side_cameras.sizes or [size])
        )
        pool, runners = stack.enter_context(decoding(decoders, policy, on_frame, budget_mib))
        runners.add(sinks)
        stack.enter_context(side_cameras)
        server = stack.enter_context(
            StreamServer(
                pool, host, port, certificates=certificates, sides=side_cameras, health=health
            )
        )
        yield Serving(host, server.port, pool.status)


@contextmanager
def decoding(
    workers: Sequence[DecodeWorker],
    policy: PairingPolicy | None,
    on_frame: Callable[[DecodedFrame], None],
    budget_mib: float | None,
) -> Iterator[tuple[DecodePool, SinkRunners]]:
    """A pool whose frames go to `on_frame`, then to all sinks that are added. At the end it
    decodes what waits, and the sinks are closed after that."""
    limit_mib = _half_of_memory_mib() if budget_mib is None else budget_mib
    with ExitStack() as stack:
        sinks = SinkRunners()
        stack.callback(sinks.close)

        def take(frame: DecodedFrame) -> None:
            on_frame(frame)
            sinks.offer(frame)

        pool = DecodePool(workers, policy or PairingPolicy(), take, budget_mib=limit_mib)
        yield stack.enter_context(pool), sinks


@contextmanager
def local_workers(
    bundle: Bundle, backend: Backend, count: int, sizes: Sequence[tuple[int, int]]
) -> Iterator[list[DecodeWorker]]:
    """Decoders of this process, warmed up for pictures of these sizes. They share the cores."""
    if count < 1:
        raise StreamError(f"{count} workers: at least one has to decode")
    cores = len(os.sched_getaffinity(0))
    threads = None if count == 1 else max(1, cores // count)
    with ExitStack() as stack:
        decoders = [
            stack.enter_context(Decoder(bundle, backend, threads=threads)) for _ in range(count)
        ]
        with Encoder(bundle, backend) as encoder:
            for decoder, size in product(decoders, sizes):
                warm_up(encoder, size, decoder)
        memory = SceneMemory()
        yield [LocalWorker(decoder, memory) for decoder in decoders]


def _half_of_memory_mib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / 2**20
