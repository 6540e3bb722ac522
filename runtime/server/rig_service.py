"""The server's end of dsin_v1.proto: admits cameras, and hands their frames to the pool.

One event loop reads all streams; nothing here computes for long. A stream that breaks the protocol
is ended with a status that says why; what a frame does wrong is answered, and the stream goes on.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from dsin.runtime.errors import StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import CREDITS, METHOD, NAME_BYTES, PROTOCOL, SERVICE
from dsin.runtime.pictures import MAX_PIXELS, MAX_SIDE
from dsin.runtime.server.camera_session import CameraSession, RefusedError
from dsin.runtime.server.datagram_endpoint import DatagramEndpoint
from dsin.runtime.server.decode_pool import DecodePool, NoRoomError
from dsin.runtime.server.side_cameras import RecordedSideCamera, SideCameras
from dsin.runtime.version import __version__

LOG = logging.getLogger(__name__)
HELLO_S = 5.0
"""A stream that has not said who it is by then is ended."""
PROBE_S = 1.0
"""A camera's clock is asked for that often, and at once when it seems to have stepped."""
ALIVE_S = 2.0
"""A camera that says nothing for so long, though it is asked to, gives its place to another one of
its name: one that was started again after a crash does not wait for longer."""
LINGER_S = 0.1
"""How soon the end of a camera is noticed that lives by datagrams alone."""
_REPLACED = grpc.StatusCode.ABORTED, "a newer connection of this camera came"
_OTHER_SIZE = grpc.StatusCode.UNAVAILABLE, "camera x of this rig has another size: come again"
_X, _Y = int(dsin_v1.CAMERA_X), int(dsin_v1.CAMERA_Y)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RigService:
    """Serves `dsin.v1.Rig`. `authenticated`: names of rigs come from certificates. With `datagrams`
    cameras x may send their frames there."""

    def __init__(
        self,
        pool: DecodePool,
        *,
        authenticated: bool,
        sides: SideCameras | None = None,
        datagrams: DatagramEndpoint | None = None,
    ) -> None:
        self._pool = pool
        self._datagrams = datagrams
        self._lingering: set[asyncio.Task[None]] = set()
        self._authenticated = authenticated
        self._sides = sides or SideCameras()
        self._cameras: dict[tuple[str, int], CameraSession] = {}
        self._refused = 0
        self._told_s = -1.0

    def handler(self) -> grpc.GenericRpcHandler:
        """For `add_generic_rpc_handlers`."""
        stream = grpc.stream_stream_rpc_method_handler(
            self.stream,
            request_deserializer=_parsed,
            response_serializer=dsin_v1.ServerMessage.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: stream})

    async def stream(self, _requests: object, context: Context) -> None:
        """One camera, from its greeting to its end."""
        try:
            hello = await self._greeting(context)
            self._check_name(hello.rig, context)
            await self._check_alone(hello)
            camera = self._admitted(hello, context.peer())
        except RefusedError as refused:
            self._log_refusal(context.peer(), refused.reason)
            await context.abort(refused.code, refused.reason)
        key = (camera.rig.name, camera.kind)
        replaced = self._cameras.get(key)
        if replaced is not None:
            replaced.end(*_REPLACED)
        self._cameras[key] = camera
        camera.join()
        self._open_datagrams(camera, wanted=hello.datagrams)
        LOG.info("rig %s: camera %s connected from %s", key[0], camera.letter, context.peer())
        try:
            await self._run(camera, context)
        finally:
            # A stream whose connection broke may seem to end as one that the camera closed: whoever
            # sends datagrams says goodbye in these.
            alive = camera.datagrams is not None and camera.datagrams.alive
            if camera.ended.is_set() or not alive:
                self._leave(key, camera)
            else:
                task = asyncio.create_task(self._linger(key, camera))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)

    def stop(self) -> None:
        """Forget cameras that live by datagrams alone."""
        for task in self._lingering:
            task.cancel()

    def _open_datagrams(self, camera: CameraSession, *, wanted: bool) -> None:
        if camera.letter != "x":
            return
        camera.rig.link.begin("grpc")
        if wanted and self._datagrams is not None:
            camera.datagrams = self._datagrams.open(camera.rig.link, camera)

    def _leave(self, key: tuple[str, int], camera: CameraSession) -> None:
        camera.ended.set()
        if self._datagrams is not None and camera.datagrams is not None:
            self._datagrams.forget(camera.datagrams)
        if self._cameras.get(key) is camera:
            del self._cameras[key]
            camera.leave()
        LOG.info("rig %s: camera %s disconnected", key[0], camera.letter)

    async def _linger(self, key: tuple[str, int], camera: CameraSession) -> None:
        """As long as its datagrams come, a camera is there without its stream."""
        assert camera.datagrams is not None
        probing = asyncio.create_task(_probe(camera, camera.ended))
        try:
            await asyncio.sleep(LINGER_S)  # a goodbye may come behind the stream's end
            if not camera.ended.is_set():
                LOG.warning("rig %s: the control connection is lost, datagrams go on", key[0])
            while camera.datagrams.alive and not camera.ended.is_set():
                await asyncio.sleep(LINGER_S)
            if camera.end_status is not None:
                LOG.warning("rig %s: ended camera %s: %s", key[0], camera.letter,
                            camera.end_status[1])  # fmt: skip
        finally:
            self._leave(key, camera)
            probing.cancel()

    def _log_refusal(self, peer: str, reason: str) -> None:
        """At most one line a second, so that a flood of them does not become one of the log."""
        self._refused += 1
        now_s = time.monotonic()
        if now_s - self._told_s >= 1.0:
            LOG.warning("refused %s: %s (%d refused so far)", peer, reason, self._refused)
            self._told_s = now_s

    async def _run(self, camera: CameraSession, context: Context) -> None:
        welcome = dsin_v1.Welcome(
            credits=CREDITS,
            server_version=__version__,
            datagrams=None if camera.datagrams is None else camera.datagrams.grant(),
            references=camera.takes_references,
        )
        await context.write(dsin_v1.ServerMessage(welcome=welcome))
        over = asyncio.Event()
        tasks = [
            asyncio.create_task(step)
            for step in (
                _read(camera, context),
                _write(camera, context),
                _probe(camera, over),
                camera.ended.wait(),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if isinstance(error, RefusedError):
                camera.end(error.code, error.reason)
            elif error and not isinstance(error, grpc.RpcError | asyncio.CancelledError):
                raise error
        if camera.end_status is not None:
            LOG.warning("rig %s: ended camera %s: %s", camera.rig.name, camera.letter,
                        camera.end_status[1])  # fmt: skip
            await context.abort(*camera.end_status)

    async def _greeting(self, context: Context) -> dsin_v1.Hello:
        try:
            message = await asyncio.wait_for(context.read(), HELLO_S)
        except asyncio.TimeoutError:
            raise RefusedError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no greeting within {HELLO_S:.0f} s"
            ) from None
        if message is grpc.aio.EOF or message.WhichOneof("message") != "hello":
            raise _unfit("a stream begins with Hello")
        hello: dsin_v1.Hello = message.hello
        return hello

    async def _check_alone(self, hello: dsin_v1.Hello) -> None:
        """Raise RefusedError where another device of this name is alive. The same one, which
        connects again, and one whose forerunner is silent take that place."""
        key = hello.rig, int(hello.camera)
        while (other := self._cameras.get(key)) is not None and other.session != hello.session:
            if await other.shows_life(ALIVE_S):
                raise _unfit(
                    f"camera {other.letter} of rig {hello.rig} is streaming already, from "
                    f"{other.peer}: stop that device, or give this one a rig of its own"
                )
            if self._cameras.get(key) is other:
                return

    def _admitted(self, hello: dsin_v1.Hello, peer: str) -> CameraSession:
        """Check a greeting. Raises RefusedError."""
        if hello.protocol != PROTOCOL:
            raise _unfit(f"this server speaks protocol {PROTOCOL}, not {hello.protocol}")
        if hello.camera not in (dsin_v1.CAMERA_X, dsin_v1.CAMERA_Y):
            raise _unfit("a camera is x or y")
        if hello.clock not in (dsin_v1.CLOCK_LIVE, dsin_v1.CLOCK_RECORDING):
            raise _unfit("timestamps are of a live clock or of a recording")
        large = max(hello.width, hello.height) > MAX_SIDE
        if large or not 0 < hello.width * hello.height <= MAX_PIXELS:
            raise _unfit(f"pictures of {hello.width}x{hello.height} are not supported")
        if hello.camera == dsin_v1.CAMERA_X:
            self._check_codec(hello)
        self._check_clocks(hello)
        size = hello.height, hello.width
        local = self._sides.recorded(hello.rig, size)
        self._check_own_side(hello, self._sides.size(hello.rig))
        if local is not None:
            _check_same_recording(hello, local)
        try:
            rig = self._pool.open_rig(hello.rig, self._make_way(hello, size), local)
        except NoRoomError as error:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        except StreamError as error:
            raise _unfit(str(error)) from error
        loop = asyncio.get_running_loop()
        return CameraSession(self._pool, self._sides, rig, hello, loop, _shown(peer))

    def _make_way(self, hello: dsin_v1.Hello, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the rig's pictures, which is that of camera x as soon as it is there.

        Connections that were made for another size end: this camera's from before, which may seem
        to live for seconds after the camera has started again, and camera y's, which comes back.
        """
        x, y = (self._cameras.get((hello.rig, kind)) for kind in (_X, _Y))
        if hello.camera == dsin_v1.CAMERA_Y and x is not None:
            if x.rig.size != size:
                self._tell_resized(hello, "sends", (hello.height, hello.width), x.rig.size)
            return x.rig.size
        for before, status in (
            (y, _OTHER_SIZE if hello.camera == _X else _REPLACED),
            (x, _REPLACED),
        ):
            if before is not None and before.rig.size != size:
                before.end(*status)
                before.leave()
                del self._cameras[hello.rig, before.kind]
        return size

    def _tell_resized(
        self, hello: dsin_v1.Hello, verb: str, own: tuple[int, int], size: tuple[int, int]
    ) -> None:
        LOG.warning(
            "rig %s: its side camera %s %dx%d, which is resized to %dx%d",
            hello.rig, verb, own[1], own[0], size[1], size[0],
        )  # fmt: skip

    def _check_name(self, rig: str, context: Context) -> None:
        printable = rig.isprintable() and "/" not in rig and rig not in (".", "..")
        if not rig or not printable or len(rig.encode()) > NAME_BYTES:
            raise _unfit(
                f"a rig has a name of at most {NAME_BYTES} printable bytes without a slash"
            )
        if not self._authenticated:
            return
        names = context.auth_context().get("x509_common_name", [])
        if rig.encode() not in names:
            owner = ", ".join(name.decode(errors="replace") for name in names) or "no rig"
            raise RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"this certificate belongs to {owner} and cannot be used for rig {rig}",
            )

    def _check_codec(self, hello: dsin_v1.Hello) -> None:
        bundle = self._pool.bundle
        if hello.codec_id != bundle.codec_id:
            raise _unfit(
                f"the camera's bundle has codec {hello.codec_id[:6].hex()}, the server's "
                f"{bundle.path.name} has {bundle.codec_id.hex()}: both need the same bundle"
            )
        if hello.rate_points != len(bundle.rate_points):
            raise _unfit(
                f"the camera's bundle has {hello.rate_points} rates, the server's "
                f"{len(bundle.rate_points)}"
            )

    def _check_clocks(self, hello: dsin_v1.Hello) -> None:
        """Both cameras of a rig need times that can be compared."""
        other = self._cameras.get((hello.rig, 3 - hello.camera))
        live = hello.clock == dsin_v1.CLOCK_LIVE
        if other is not None and other.live != live:
            raise _unfit("one camera of this rig is live and the other one plays a recording")

    def _check_own_side(self, hello: dsin_v1.Hello, own: tuple[int, int] | None) -> None:
        """Where the server has the rig's side camera itself, it must fit."""
        if own is None:
            return
        if hello.camera == dsin_v1.CAMERA_Y:
            raise _unfit(f"the server has the side camera of rig {hello.rig} itself")
        if own != (hello.height, hello.width):
            self._tell_resized(hello, "here has", own, (hello.height, hello.width))
        plays = hello.clock == dsin_v1.CLOCK_RECORDING
        if plays == (self._sides.live_size(hello.rig) is not None):
            kinds = ("live", "a recording") if plays else ("a recording", "live")
            raise _unfit(f"the server's side camera is {kinds[0]}, and this camera is {kinds[1]}")


def _check_same_recording(hello: dsin_v1.Hello, local: RecordedSideCamera) -> None:
    """Times of two recordings mean nothing to each other."""
    if abs(hello.recording_start_ns - local.start_ns) > local.interval_ns // 2:
        raise _unfit(
            f"the server's side camera plays a recording that begins at {local.start_ns} ns, "
            f"but this camera's begins at {hello.recording_start_ns} ns: play the same one on both "
            "sides"
        )


async def _read(camera: CameraSession, context: Context) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await camera.take(message)


async def _write(camera: CameraSession, context: Context) -> None:
    while True:
        await context.write(await camera.next_message())


async def _probe(camera: CameraSession, over: asyncio.Event) -> None:
    # Before Python 3.12 `wait_for` swallows a cancellation that comes just when its wait is over.
    while not over.is_set():
        camera.send_probe()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(camera.doubted.wait(), PROBE_S)
        camera.doubted.clear()


def _parsed(data: bytes) -> dsin_v1.CameraMessage:
    """The message, or an empty one where the bytes are not one: it is refused like any other."""
    try:
        return dsin_v1.CameraMessage.FromString(data)
    except DecodeError:
        return dsin_v1.CameraMessage()


def _shown(peer: str) -> str:
    """A peer's address without what gRPC adds to it."""
    return unquote(peer.partition(":")[2])


def _unfit(reason: str) -> RefusedError:
    return RefusedError(grpc.StatusCode.FAILED_PRECONDITION, reason)
