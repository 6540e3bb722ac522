"""A bad network on loopback: passes bytes on late, slowly, in stalls, or not at all."""

import contextlib
import random
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType

CHUNK = 4096


@dataclass
class Faults:
    """What the network does; may be changed while it runs.

    `delay_s` is the way in one direction, `kbps` limits each direction, `stalled` is the share of
    chunks that wait for `stall_s`, `frozen` stops everything without closing anything.
    """

    delay_s: float = 0.0
    kbps: float | None = None
    stalled: float = 0.0
    stall_s: float = 0.3
    frozen: bool = False


class FaultProxy:
    """Listens on `port` of loopback and passes connections on to `target_port`."""

    def __init__(self, target_port: int, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self._target_port = target_port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections, as a server that is killed does."""
        for one in list(self._open):
            _shut(one)

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                _shut(near)
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # Small buffers: what the network holds back must not pile up in the kernel.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
                self._open.add(one)
            for source, target in ((near, far), (far, near)):
                _Way(self, source, target).start()

    def pause_s(self) -> float:
        """How long a chunk stalls."""
        return self.faults.stall_s if self._random.random() < self.faults.stalled else 0.0

    def forget(self, one: socket.socket) -> None:
        """A connection is over."""
        self._open.discard(one)
        _shut(one)


class _Way:
    """One direction: a thread reads, another one writes when it is time."""

    def __init__(self, proxy: FaultProxy, source: socket.socket, target: socket.socket) -> None:
        self._proxy, self._source, self._target = proxy, source, target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()
        self._over = False

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := self._source.recv(CHUNK):
                with self._changed:
                    # What a link holds is bounded: then the sender has to wait.
                    self._changed.wait_for(lambda: len(self._under_way) < 64 or self._over)
                    self._under_way.append((time.monotonic() + self._proxy.faults.delay_s, data))
                    self._changed.notify_all()
        except OSError:
            pass
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _write(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._under_way or self._over)
                    if not self._under_way:
                        break
                    due, data = self._under_way.popleft()
                    self._changed.notify_all()
                time.sleep(max(0.0, due - time.monotonic()) + self._proxy.pause_s())
                while self._proxy.faults.frozen:
                    time.sleep(0.01)
                self._target.sendall(data)
                if self._proxy.faults.kbps is not None:
                    time.sleep(8 * len(data) / 1000 / self._proxy.faults.kbps)
        except OSError:
            pass
        self._proxy.forget(self._target)
        self._proxy.forget(self._source)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
