"""What the page knows: of each rig the newest frame, the last minute, the status."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.web.history import History
from dsin.runtime.web.pictures import FramePictures

STATUS_EVERY_S = 0.5


class PageState:
    """For several threads at once. `status` is asked at most every STATUS_EVERY_S."""

    def __init__(
        self, status: Callable[[], Sequence[RigStatus]], patch: tuple[int, int], networks: str
    ) -> None:
        self.networks = networks
        self._ask = status
        self._patch = patch
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="page-pictures")
        self._lock = threading.Lock()
        self._newest: dict[str, FramePictures] = {}
        self._history: dict[str, History] = {}
        self._status: Sequence[RigStatus] = ()
        self._asked_s = -math.inf

    def add(self, frame: DecodedFrame) -> None:
        """A frame was decoded."""
        pictures = FramePictures(frame, self._patch, self._workers)
        with self._lock:
            self._newest[frame.rig] = pictures
            self._history.setdefault(frame.rig, History()).add_frame(frame, time.monotonic())
        self.rigs()

    def rigs(self) -> Sequence[RigStatus]:
        """The status of all rigs, not older than STATUS_EVERY_S."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._asked_s < STATUS_EVERY_S:
                return self._status
            self._asked_s = now_s
        status = self._ask()
        with self._lock:
            self._status = status
            for rig in status:
                self._history.setdefault(rig.rig, History()).add_status(rig, now_s)
            for name in self._history.keys() - {rig.rig for rig in status}:
                del self._history[name]
                self._newest.pop(name, None)
        return status

    def newest(self, rig: str) -> FramePictures | None:
        """The newest frame of a rig, if there is one."""
        with self._lock:
            return self._newest.get(rig)

    def points(self, rig: str, after: int) -> tuple[int, dict[str, Any]]:
        """What the plots need that is newer than a point, and the number of the newest."""
        with self._lock:
            history = self._history.get(rig) or History()
            return history.last, {
                "frames": history.frames_after(after),
                "drops": history.drops_after(after),
                "stage_ms": history.stage_ms(),
            }
