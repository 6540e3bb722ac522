"""Where one server is not enough: decoders on Ray Serve, each rig's always on the same one.

    cameras ─► front: TLS, identity, handshake, credits, clocks ─┬─► RigDecoder, place 0
               (dsin.runtime.fleet.decoders.FleetDecoder)                 ├─► RigDecoder, place 1
                                                                 └─► …

The front is ours and not Ray Serve's gRPC ingress, which has neither TLS nor certificates, takes
the key of a session from the caller, and permits no keepalive. Side images are prepared and kept
where the rig's packets go. When a decoder dies, calls to it fail and its rigs go to the next ones
on the ring, which get the side image anew; once it has been replaced they go back. Other rigs stay
where they are (see dsin.runtime.fleet.ring).

Needs Ray: pip install 'dsin[fleet]'.
"""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.packet import Packet
from dsin.runtime.errors import BackendError, StreamError
from dsin.runtime.fleet.replica import FleetAnswer, ReplicaOptions, RigDecoder
from dsin.runtime.pictures import Image

APPLICATION = "dsin"
"""The name of the application in Ray Serve."""
_ROUTER = "dsin.runtime.fleet.router.PlaceRouter"
_MOST_CALLS = 1_000_000
"""Calls under way that a replica takes. The front's credits limit them; a replica that refused
calls would have them sent to others, and rigs would move."""
_OBJECT_STORE_BYTES = 512 << 20
"""Shared memory of a Ray that is started here: pictures lie there on their way."""


@dataclass(frozen=True)
class FleetOptions:
    """`address` is that of a running Ray ("auto": the one of this machine); None starts one here.

    `replicas` decoders get `cpus` processors and `gpus` GPUs each (fractions are fine). `timeout_s`
    is how long an answer may take before the call counts as lost. The others are those of
    `ReplicaOptions`.
    """

    address: str | None = None
    replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    timeout_s: float = 3.0
    bundle: str | None = None
    backend: Backend = "cpu"
    side_budget_mib: int = 4096
    pictures: bool = True


class ReplicaLostError(StreamError):
    """A call's replica died or gave no answer in time: the frame is lost, the rig can go on."""


class FleetDecoder:
    """Sends frames and side images to the rig's decoder. Made by `start_fleet`.

    A front has at most one frame and one side image of a rig under way, and drops older ones, as
    for a decoder of its own: nothing here limits how many calls wait.
    """

    def __init__(self, handle: Any, options: FleetOptions) -> None:
        self._handle = handle
        self._options = options

    def __enter__(self) -> "FleetDecoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def side(
        self, rig: str, picture: bytes | Image, number: int, rate: int | None = None
    ) -> FleetAnswer:
        """Store the rig's side image `number`: a PNG or JPEG file, or RGB H×W×3 uint8.

        It is prepared for that rate, best the last packet's (None: the bundle's default). Raises
        FrameError for anything else, ReplicaLostError where it may not have arrived.
        """
        return await self._call("side", rig, picture, number, rate)

    async def frame(
        self, rig: str, packet: bytes, side_number: int | None, picture: bytes | Image | None = None
    ) -> FleetAnswer:
        """Decode a packet with the side image of that number, or without any (None).

        A decoder that is new to the rig gets the side image's `picture`, where it is given, and
        decodes then; else it decodes without, and the answer's `side_known` is false. Raises
        PacketError and FrameError as `Decoder.decode` does, and ReplicaLostError.
        """
        answer = await self._call("frame", rig, packet, side_number)
        if answer.side_known:
            return answer
        if picture is not None and side_number is not None:
            await self.side(rig, picture, side_number, Packet.parse(packet).header.rate)
            answer = await self._call("frame", rig, packet, side_number)
            if answer.side_known:
                return answer
        alone = await self._call("frame", rig, packet, None)
        return dataclasses.replace(alone, side_known=False)

    def close(self) -> None:
        """Stop the decoders."""
        _stop(self._options)

    async def _call(self, method: str, rig: str, *arguments: object) -> FleetAnswer:
        handle = self._handle.options(method_name=method, session_id=rig)
        with _as_lost(self._options.timeout_s):
            answer: FleetAnswer = await asyncio.wait_for(
                handle.remote(rig, *arguments), self._options.timeout_s
            )
        if answer.refused is not None:
            raise answer.refused
        return answer


class BlockingFleet:
    """A `FleetDecoder` for threads: the same calls, which wait for their answers.

    As many calls are under way as there are threads that call: a front needs about two for each
    replica, since while one call is decoded the next should wait there.
    """

    def __init__(self, fleet: FleetDecoder) -> None:
        self._fleet = fleet
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self._thread.start()

    def side(
        self, rig: str, picture: bytes | Image, number: int, rate: int | None = None
    ) -> FleetAnswer:
        """See `FleetDecoder.side`."""
        return self._wait(self._fleet.side(rig, picture, number, rate))

    def frame(
        self, rig: str, packet: bytes, side_number: int | None, picture: bytes | Image | None = None
    ) -> FleetAnswer:
        """See `FleetDecoder.frame`."""
        return self._wait(self._fleet.frame(rig, packet, side_number, picture))

    def close(self) -> None:
        """End the thread; the fleet stays."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, FleetAnswer]) -> FleetAnswer:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


def start_fleet(options: FleetOptions) -> FleetDecoder:
    """Start the decoders and wait until they are ready; takes some seconds, and blocks.

    Raises BackendError where Ray is not installed or has not the processors for it.
    """
    ray, serve = _connect(options)
    try:
        _check_resources(ray.cluster_resources(), options)
        serve.start(proxy_location="Disabled")
        application = serve.deployment(RigDecoder, **_deployment(options)).bind(_replica(options))
        handle = serve.run(application, name=APPLICATION, route_prefix=None)
    except BaseException:
        _stop(options)
        raise
    return FleetDecoder(handle, options)


def _connect(options: FleetOptions) -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
        from ray.serve.experimental import consistent_hash_router  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"a fleet needs Ray Serve 2.60 or later ({error}): pip install 'dsin[fleet]'"
        ) from error
    started: dict[str, Any] = {"address": options.address}
    if options.address is None:
        started = {
            "address": "local", "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }  # fmt: skip
    if not ray.is_initialized():
        try:
            ray.init(logging_level="WARNING", log_to_driver=False, **started)
        except ConnectionError as error:
            raise BackendError(f"no Ray answers at {options.address!r}: {error}") from error
    return ray, serve


def _check_resources(available: dict[str, float], options: FleetOptions) -> None:
    # Ray Serve would wait for them for ever.
    for name, each in (("CPU", options.cpus), ("GPU", options.gpus)):
        if each * options.replicas > available.get(name, 0.0):
            raise BackendError(
                f"{options.replicas} replicas of {each:g} {name} each need more than the "
                f"{available.get(name, 0.0):g} {name} that Ray has: use fewer or smaller ones"
            )


def _replica(options: FleetOptions) -> ReplicaOptions:
    return ReplicaOptions(
        options.bundle, options.backend, options.cpus, options.side_budget_mib, options.pictures
    )


def _deployment(options: FleetOptions) -> dict[str, Any]:
    from ray.serve.config import RequestRouterConfig

    return {
        "name": "RigDecoder",
        "num_replicas": options.replicas,
        "max_ongoing_requests": _MOST_CALLS,
        "ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus},
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 5.0,
        "graceful_shutdown_timeout_s": 2.0,
        "request_router_config": RequestRouterConfig(request_router_class=_ROUTER),
    }


@contextlib.contextmanager
def _as_lost(timeout_s: float) -> Iterator[None]:
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError

    try:
        yield
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise ReplicaLostError(f"the decoder gave no answer within {timeout_s:g} s") from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise ReplicaLostError(f"the decoder died: {type(error).__name__}") from error


def _stop(options: FleetOptions) -> None:
    import ray
    from ray import serve

    if options.address is None:
        serve.shutdown()
    else:
        # Others may have applications there.
        serve.delete(APPLICATION)
    ray.shutdown()
