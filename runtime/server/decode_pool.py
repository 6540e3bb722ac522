"""Threads that decode for all rigs in turn, so that no rig waits for another's backlog.

    streams ─► Rig.waiting (two at most) ─┐
    side cameras ─► Rig.sides ────────────┴► worker: decode; when idle, prepare side images
                                               └─► answer to the camera, DecodedFrame to the sinks

A worker decodes before it prepares: under load, side images of frames that are dropped anyway are
never prepared.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.errors import DsinError, FrameError, ReferenceMissingError, StreamError
from dsin.runtime.link.clocks import Offset, now_ns
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.server.decode_worker import DecodeWorker
from dsin.runtime.server.rig import ArrivedFrame, FrameStatus, LocalSide, Rig
from dsin.runtime.server.side_buffer import PairingPolicy, StoredSide
from dsin.runtime.trace import traced

LOG = logging.getLogger(__name__)
MIB = 2**20
MOST_RIGS = 1024
"""Rigs that are remembered; more only while they are connected."""


class NoRoomError(StreamError):
    """The memory budget is used up; there may be room later."""


class _Job(NamedTuple):
    rig: Rig
    frame: ArrivedFrame | None
    """None: prepare the side image."""
    side: StoredSide | None
    use: SideUse


class DecodePool:
    """Decodes for several rigs.

        with DecodePool([LocalWorker(Decoder())], PairingPolicy(), on_frame=print) as pool:
            rig = pool.open_rig("front", (375, 1242))
            pool.offer(rig, frame)

    One thread works with each worker. `on_frame` gets what was decoded, from any of them, in
    order for each rig; it must be quick and not raise. `budget_mib` limits what all rigs together
    may need (None: no limit).
    """

    def __init__(
        self,
        workers: Sequence[DecodeWorker],
        policy: PairingPolicy,
        on_frame: Callable[[DecodedFrame], None],
        *,
        budget_mib: float | None = None,
    ) -> None:
        self.policy = policy
        self.bundle = workers[0].bundle
        self._on_frame = on_frame
        self._budget_mib = budget_mib
        self._rigs: dict[str, Rig] = {}
        self._changed = threading.Condition()
        self._turn = 0
        self._closing = False
        self._workers = [
            threading.Thread(target=self._work, args=(worker,), name=f"decode-{n}", daemon=True)
            for n, worker in enumerate(workers)
        ]

    def __enter__(self) -> "DecodePool":
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Decode what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def open_rig(self, name: str, size: tuple[int, int], local: LocalSide | None = None) -> Rig:
        """The rig of that name; made, or made anew if its pictures have another size now.

        Raises StreamError if the rig is connected with pictures of another size, and where the
        memory budget has no room for it beside the others that are connected.
        """
        with self._changed:
            rig = self._rigs.get(name)
            if rig is None or rig.size != size:
                if rig is not None and rig.connected:
                    raise StreamError(
                        f"rig {name} is connected with pictures of {rig.size[1]}x{rig.size[0]}, "
                        f"not {size[1]}x{size[0]}: both cameras need one size"
                    )
                rig = Rig(name, size, self.policy, local)
            taken = sum(r.budget_bytes for r in self._rigs.values() if r.connected and r is not rig)
            if self._budget_mib is not None and taken + rig.budget_bytes > self._budget_mib * MIB:
                raise NoRoomError(
                    f"rig {name} needs {rig.budget_bytes / MIB:.0f} MiB, and of the server's "
                    f"{self._budget_mib:.0f} MiB {taken / MIB:.0f} are taken: try again later"
                )
            self._rigs[name] = rig
            self._forget_oldest(rig)
            return rig

    def _forget_oldest(self, new: Rig) -> None:
        """Of rigs that left, only so many are remembered."""
        gone = [n for n, rig in self._rigs.items() if not rig.connected and rig is not new]
        for name in gone[: max(0, len(self._rigs) - MOST_RIGS)]:
            del self._rigs[name]

    def offer(self, rig: Rig, frame: ArrivedFrame) -> None:
        """Decode this frame when its turn comes."""
        with self._changed:
            rig.offer(frame)
            self._changed.notify()

    def offer_side(
        self, rig: Rig, view: SideView, paired_ns: int, *, clock_in_doubt: bool = False
    ) -> None:
        """Keep a side image, and prepare it when there is time."""
        with self._changed:
            rig.sides.add(view, paired_ns, clock_in_doubt=clock_in_doubt)
            self._changed.notify()

    def forget_sides(self, rig: Rig) -> None:
        """Discard side images whose times turned out to be wrong."""
        with self._changed:
            rig.sides.clear()
            self._changed.notify()

    def camera_joined(
        self, rig: Rig, clock: Callable[[], Offset | None], *, references: bool = False
    ) -> None:
        """Camera x is there. `clock` tells how far its clock is from the server's, once known. With
        `references` its packets may refer to those decoded from now on."""
        with self._changed:
            rig.camera_connected, rig.clock = True, clock
            rig.references = DecodedFrames() if references else None
            self._changed.notify()

    def camera_left(self, rig: Rig) -> None:
        """Camera x is gone."""
        with self._changed:
            rig.camera_connected, rig.references = False, None
            self._forget_if_alone(rig)

    def side_joined(self, rig: Rig) -> None:
        """Camera y is there: frames may wait for its pictures."""
        with self._changed:
            rig.side_connected = True
            self._changed.notify()

    def side_left(self, rig: Rig) -> None:
        """Camera y is gone: frames that wait for its pictures do so no longer."""
        with self._changed:
            rig.side_connected = False
            self._forget_if_alone(rig)

    def device_reported(self, rig: Rig, figures: dict[str, float]) -> None:
        """Keep what the device reported: `RigStatus.device` from now on."""
        with self._changed:
            rig.device = figures

    def _forget_if_alone(self, rig: Rig) -> None:
        """Side images are discarded once both cameras are gone."""
        if not rig.connected:
            rig.sides.clear()
        self._changed.notify()

    def reject(self, rig: Rig) -> None:
        """Count a frame that was not a packet of the rig's codec and size."""
        with self._changed:
            rig.count(FrameStatus.REJECTED)

    def status(self) -> list[RigStatus]:
        """All rigs at this moment, by name."""
        with self._changed:
            return [self._rigs[name].status() for name in sorted(self._rigs)]

    def _work(self, worker: DecodeWorker) -> None:
        while (job := self._next_job()) is not None:
            try:
                if job.frame is None:
                    self._prepare(worker, job)
                    continue
                packet = job.frame.packet
                about = {"rig": job.rig.name, "rate": job.frame.rate, "bytes": len(packet)}
                with traced("frame", frame=job.frame.number, **about):
                    self._decode(worker, job, job.frame)
                if job.rig.local is not None:
                    self._look_ahead(job.rig)
            except Exception:  # one rig's fault must not end the service for the others
                LOG.exception("internal fault while decoding for rig %s", job.rig.name)

    def _next_job(self) -> _Job | None:
        """Wait for something to do; None when closing and nothing is left."""
        with self._changed:
            while True:
                job, pause_s = self._find_job()
                if job is not None:
                    return job
                if self._closing and not any(r.waiting for r in self._rigs.values()):
                    return None
                self._changed.wait(pause_s)

    def _find_job(self) -> tuple[_Job | None, float | None]:
        """A frame to decode, the rigs in turn, else a side image to prepare; else how long to wait
        for the next deadline."""
        rigs = list(self._rigs.values())
        start = self._turn % len(rigs) if rigs else 0
        pauses: list[float] = []
        now_s = time.monotonic()
        for number, rig in enumerate(rigs[start:] + rigs[:start]):
            if not rig.waiting or rig.decoding:
                continue
            pause_s = rig.due(now_s)
            side, use = rig.sides.choose(rig.waiting[0].paired_ns)
            if pause_s > 0:
                pauses.append(pause_s)
            elif side is None or not side.preparing:
                self._turn = start + number + 1
                if side is not None:
                    side.fresh = False  # whoever decodes with it prepares it
                rig.decoding = True
                return _Job(rig, rig.waiting.popleft(), side, use), None
        for rig in rigs:
            side = rig.sides.newest
            if rig.rate is not None and side is not None and side.fresh and not self._closing:
                side.preparing, side.fresh = True, False
                return _Job(rig, None, side, SideUse.PAIRED), None
        return None, min(pauses, default=None)

    def _prepare(self, worker: DecodeWorker, job: _Job) -> None:
        assert job.side is not None
        prepared = None
        try:
            with traced("side image", frame=job.side.view.number):
                prepared = worker.prepare(job.rig.name, job.side.view, job.rig.rate)
        except DsinError as error:
            job.rig.complain(f"side image {job.side.view.number}: {error}")
        finally:
            with self._changed:
                job.side.prepared, job.side.preparing = prepared, False
                self._changed.notify_all()

    def _decode(self, worker: DecodeWorker, job: _Job, frame: ArrivedFrame) -> None:
        rig, status, reason = job.rig, FrameStatus.REJECTED, "internal fault, see the server's log"
        use, decode_ms, reference_missing = SideUse.MISSING, 0.0, False
        start_s = time.monotonic()
        waited_ms = 1000 * (start_s - frame.queued_s)
        try:
            done = self._decoded(worker, job, frame, waited_ms)
            status, reason, use = FrameStatus.DECODED, "", done.side_use
            decode_ms = 1000 * (time.monotonic() - start_s)
            with traced("hand over"):
                self._on_frame(done)
        except DsinError as error:
            reason = str(error)
            reference_missing = isinstance(error, ReferenceMissingError)
            rig.complain(f"frame {frame.number}: {error}")
        finally:
            with self._changed:
                rig.decoding, rig.rate = False, frame.rate
                rig.finish(
                    frame, status, use, decode_ms, reason, waited_ms,
                    reference_missing=reference_missing,
                )  # fmt: skip
                self._changed.notify_all()

    def _decoded(
        self, worker: DecodeWorker, job: _Job, frame: ArrivedFrame, waited_ms: float
    ) -> DecodedFrame:
        side, use = job.side, job.use
        if job.rig.local is not None and use is not SideUse.PAIRED:
            side, use = self._fetch(job.rig, frame.paired_ns)
        view, prepared = (None, None) if side is None else (side.view, side.prepared)
        decoded, now_prepared = worker.decode(
            job.rig.name, frame, view, prepared, references=job.rig.references
        )
        stages = {f"server.{name}": ms for name, ms in decoded.stage_ms.items()}
        if side is not None and now_prepared is not None:
            stages = {f"side.{n}": ms for n, ms in now_prepared.stage_ms.items()} | stages
            with self._changed:
                side.prepared, side.fresh = now_prepared, False
        elif side is not None:
            side, use = None, SideUse.MISSING
        return DecodedFrame(
            rig=job.rig.name,
            number=frame.number,
            timestamp_ns=frame.packet.header.timestamp_ns,
            captured_ns=frame.captured_ns,
            received_ns=frame.received_ns,
            decoded_ns=now_ns(),
            packet=bytes(frame.packet),
            decoded=decoded,
            side=None if side is None else side.view,
            side_use=_use(use, decoded, frame.clock_in_doubt or bool(side and side.clock_in_doubt)),
            stage_ms=stages,
            waited_ms=waited_ms,
        )

    def _fetch(self, rig: Rig, paired_ns: int) -> tuple[StoredSide | None, SideUse]:
        """Ask the rig's own recording for the side image of that moment."""
        assert rig.local is not None
        try:
            with traced("read side image"):
                view = rig.local.near(paired_ns)
        except FrameError as error:
            rig.complain(f"decoding without its side image: {error}")
            view = None
        with self._changed:
            known = rig.sides.newest
            if view is not None and (known is None or known.view.number != view.number):
                rig.sides.add(view, view.timestamp_ns)
            return rig.sides.choose(paired_ns)

    def _look_ahead(self, rig: Rig) -> None:
        """Get the next side image of a recording, so that it is prepared while none waits."""
        newest = rig.sides.newest
        if newest is not None and not rig.waiting and rig.local is not None:
            self._fetch(rig, newest.captured_ns + rig.local.interval_ns)


def _use(use: SideUse, decoded: Decoded, clock_in_doubt: bool) -> SideUse:
    """What to tell of the side image after decoding."""
    if use is SideUse.MISSING:
        return use
    if not decoded.used_side:
        return SideUse.UNRELATED
    return SideUse.CLOCK_UNCERTAIN if clock_in_doubt else use
