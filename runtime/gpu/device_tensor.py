"""Arrays that stay on a GPU between the stages of a decoder.

    session.keep(…) ─► DeviceTensor ─► the next session, the search    no copy to the host
                            └─► numpy()                                by pinned memory

A tensor is complete when it is handed out, so nobody has to wait for it, and nothing writes over it
while it lives. Then its memory goes back to its device's pool, from which the next frame takes it.
"""

import math
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import Device, Memory, PinnedMemory, Stream

MOST_FREE_BYTES = 256 << 20
"""What a pool keeps of memory that nobody uses."""
Shape = tuple[int, ...]


class DeviceTensor:
    """A dense array of `shape` and `dtype` at `address` in a device's memory."""

    def __init__(self, device: Device, shape: Shape, dtype: npt.DTypeLike) -> None:
        self.device, self.shape, self.dtype = device, shape, np.dtype(dtype)
        pool = _pool(device)
        memory = pool.take(self.nbytes)
        self.address = memory.address
        """Of the first element, aligned to 256 bytes."""
        weakref.finalize(self, pool.give, memory).atexit = False

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> npt.NDArray[Any]:
        """A copy on the host."""
        return _courier(self.device).fetch(self)

    def cropped(self, rows: int, columns: int) -> "DeviceTensor":
        """A copy of the first rows and columns of each plane, (N, C, rows, columns)."""
        if self.shape[2:] == (rows, columns):
            return self
        return _courier(self.device).crop(self, rows, columns)


Tensor = npt.NDArray[Any] | DeviceTensor
"""An array on the host or on a GPU."""


def on_host(tensor: Tensor) -> npt.NDArray[Any]:
    """The array itself, or a copy of what lies on a GPU."""
    return tensor.numpy() if isinstance(tensor, DeviceTensor) else tensor


def on_device(device: Device, tensor: Tensor) -> DeviceTensor:
    """The tensor itself, or a copy of an array of the host."""
    return tensor if isinstance(tensor, DeviceTensor) else _courier(device).bring(tensor)


def cropped(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns of each plane, (N, C, rows, columns), dense, where the rest is."""
    if isinstance(tensor, DeviceTensor):
        return tensor.cropped(rows, columns)
    return np.ascontiguousarray(tensor[:, :, :rows, :columns])


class Staging:
    """Pinned memory on the way to or from the device, kept by name. The device's context is
    current for calls; what is read or written by the stream must be left alone meanwhile."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self._rooms: dict[str, PinnedMemory] = {}

    def upload(self, name: str, array: npt.NDArray[Any], address: int) -> None:
        """Copy an array to the device; returns at once."""
        room = self._room(name, array.nbytes)
        room.array(array.shape, array.dtype)[...] = array
        self._stream.upload(address, room, array.nbytes)

    def fetch(self, tensors: Mapping[str, DeviceTensor]) -> dict[str, npt.NDArray[Any]]:
        """Copies of tensors on the host, by name; waits for the stream once."""
        for name, tensor in tensors.items():
            room = self._room(name, tensor.nbytes)
            self._stream.download(room, tensor.address, tensor.nbytes)
        self._stream.synchronise()
        return {
            name: self._rooms[name].array(tensor.shape, tensor.dtype).copy()
            for name, tensor in tensors.items()
        }

    def _room(self, name: str, size: int) -> PinnedMemory:
        if name not in self._rooms or self._rooms[name].size < size:
            self._rooms.pop(name, None)
            self._rooms[name] = PinnedMemory(self._device, size)
        return self._rooms[name]


class _Courier:
    """Copies of tensors outside of sessions, in a stream of its own."""

    def __init__(self, device: Device) -> None:
        self._device, self._using = device, threading.Lock()
        with device.current():
            self._stream = Stream(device)
        self._staging = Staging(device, self._stream)

    def fetch(self, tensor: DeviceTensor) -> npt.NDArray[Any]:
        with self._using, self._device.current():
            return self._staging.fetch({"down": tensor})["down"]

    def bring(self, array: npt.NDArray[Any]) -> DeviceTensor:
        with self._using, self._device.current():
            made = DeviceTensor(self._device, array.shape, array.dtype)
            self._staging.upload("up", array, made.address)
            self._stream.synchronise()
            return made

    def crop(self, tensor: DeviceTensor, rows: int, columns: int) -> DeviceTensor:
        *planes, height, width = tensor.shape
        size = tensor.dtype.itemsize
        with self._using, self._device.current():
            made = DeviceTensor(self._device, (*planes, rows, columns), tensor.dtype)
            self._stream.copy_box(
                made.address, tensor.address, (height, width * size),
                (math.prod(planes), rows, columns * size),
            )  # fmt: skip
            self._stream.synchronise()
            return made


class _Pool:
    """Memory of one device that was used and is free, by size. Without a lock, since tensors are
    given back by the garbage collector, which may run within `take`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: dict[int, deque[Memory]] = {}

    def take(self, size: int) -> Memory:
        """Of exactly this size."""
        try:
            return self._free[size].pop()
        except (KeyError, IndexError):
            pass
        with self._device.current():
            try:
                return Memory(self._device, size)
            except BackendError:
                # What is free is of other sizes.
                self._free.clear()
                return Memory(self._device, size)

    def give(self, memory: Memory) -> None:
        free = sum(size * len(kept) for size, kept in list(self._free.items()))
        if free + memory.size > MOST_FREE_BYTES:
            # Of sizes that are out of use.
            self._free.clear()
        self._free.setdefault(memory.size, deque()).append(memory)


@cache
def _pool(device: Device) -> _Pool:
    return _Pool(device)


@cache
def _courier(device: Device) -> _Courier:
    return _Courier(device)
