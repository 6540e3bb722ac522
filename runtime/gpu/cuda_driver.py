"""NVIDIA's driver through its own Python binding: loaded when first asked for."""

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BackendError

INSTALL = "pip install 'dsin[cuda]'"
"""What brings the binding and the compiler."""
GPU = "DSIN_GPU"
"""The environment variable with the index of the GPU to use, from 0 on, the default."""


@cache
def cuda_driver() -> Any:
    """The binding, initialised. Raises BackendError where it or the driver is missing."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(f"NVIDIA's CUDA binding is not installed: {INSTALL}") from error
    try:
        checked(driver.cuInit(0))
    except RuntimeError as error:  # the library of the driver is not found
        raise BackendError("there is no CUDA driver here: install NVIDIA's") from error
    return driver


def checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of the driver returns beside its status; BackendError where it failed."""
    if result[0].value:
        raise BackendError(f"the CUDA driver says {result[0].name}")
    return result[1:]


def gpu_index() -> int:
    """The GPU that $DSIN_GPU chooses. Raises BackendError where that is not an index."""
    chosen = os.environ.get(GPU) or "0"
    if not (chosen.isascii() and chosen.isdigit()):
        raise BackendError(f"{GPU} is {chosen!r}: make it the index of a GPU, such as 0")
    return int(chosen)


def chosen_device() -> "Device":
    """The GPU that $DSIN_GPU chooses, opened once. Raises BackendError where it is not there."""
    return _device(gpu_index())


@cache
def _device(index: int) -> "Device":
    return Device(index)


class Device:
    """One GPU and its primary context, which PyTorch, onnxruntime and TensorRT use as well."""

    def __init__(self, index: int) -> None:
        driver = cuda_driver()
        count = checked(driver.cuDeviceGetCount())[0]
        if not 0 <= index < count:
            raise BackendError(f"there is no CUDA device {index}: this machine has {count}")
        self.index = index
        handle = checked(driver.cuDeviceGet(index))[0]
        self._context = checked(driver.cuDevicePrimaryCtxRetain(handle))[0]
        attribute = driver.CUdevice_attribute
        major, minor = (
            checked(driver.cuDeviceGetAttribute(which, handle))[0]
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.architecture = int(10 * major + minor)
        """Compute capability, such as 87."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread."""
        driver = cuda_driver()
        checked(driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            checked(driver.cuCtxPopCurrent())


class Memory:
    """`size` bytes on a device, freed with the object. Its context is current for every call."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self._pointer = _allocated(cuda_driver().cuMemAlloc(size), size, "the GPU")
        self.address = int(self._pointer)
        weakref.finalize(self, _free, device, self._pointer)

    def upload(self, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the beginning; waits."""
        source = np.ascontiguousarray(array)
        checked(cuda_driver().cuMemcpyHtoD(self._pointer, source.ctypes.data, source.nbytes))

    def download(self, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """An array from the beginning; waits for what is under way in the default stream."""
        target = np.empty(shape, kind)
        checked(cuda_driver().cuMemcpyDtoH(target.ctypes.data, self._pointer, target.nbytes))
        return target


class Stream:
    """Work in order, beside that of other streams. The device's context is current for calls."""

    def __init__(self, device: Device) -> None:
        self._device = device
        flag = cuda_driver().CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = checked(cuda_driver().cuStreamCreate(flag))[0]
        self.handle = int(self._stream)
        """The CUstream as a number."""
        weakref.finalize(self, _destroy, device, self._stream)

    def synchronise(self) -> None:
        """Wait for all that the stream was given. Raises BackendError where some of it failed."""
        checked(cuda_driver().cuStreamSynchronize(self._stream))

    def upload(self, target: int, source: "PinnedMemory", size: int) -> None:
        """Copy `size` bytes to an address of the device; returns at once."""
        checked(cuda_driver().cuMemcpyHtoDAsync(target, source.address, size, self._stream))

    def download(self, target: "PinnedMemory", source: int, size: int) -> None:
        """Copy `size` bytes from an address of the device; returns at once."""
        checked(cuda_driver().cuMemcpyDtoHAsync(target.address, source, size, self._stream))

    def copy_box(
        self, target: int, source: int, pitch: tuple[int, int], box: tuple[int, int, int]
    ) -> None:
        """Copy a box of (planes, rows, bytes), dense at the target, whose first corner is that of
        an array with (rows in a plane, bytes in a row); returns at once."""
        driver = cuda_driver()
        job = driver.CUDA_MEMCPY3D()
        job.srcMemoryType = job.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        job.srcDevice, job.dstDevice = driver.CUdeviceptr(source), driver.CUdeviceptr(target)
        job.srcHeight, job.srcPitch = pitch
        job.Depth, job.Height, job.WidthInBytes = box
        job.dstHeight, job.dstPitch = box[1:]
        checked(driver.cuMemcpy3DAsync(job, self._stream))

    def capture(self, work: Callable[[], None]) -> "Captured":
        """What `work` gives to the stream, recorded instead of done. Raises what it raises, and
        BackendError where the driver cannot record it."""
        driver = cuda_driver()
        # Relaxed: the garbage collector may free memory in this thread meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        checked(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            # The stream records on until it is told to stop, whatever became of the record.
            status, graph = driver.cuStreamEndCapture(self._stream)
            if not status.value and int(graph):
                checked(driver.cuGraphDestroy(graph))
            raise
        graph = checked(driver.cuStreamEndCapture(self._stream))[0]
        try:
            return Captured(self._device, checked(driver.cuGraphInstantiate(graph, 0))[0])
        finally:
            checked(driver.cuGraphDestroy(graph))

    def replay(self, captured: "Captured") -> None:
        """Do once more what was captured, on the same addresses; returns at once."""
        checked(cuda_driver().cuGraphLaunch(captured.graph, self._stream))


class Captured:
    """Work of a stream that can be done again in one call, freed with the object."""

    def __init__(self, device: Device, graph: Any) -> None:
        self.graph = graph
        weakref.finalize(self, _free_graph, device, graph)


class PinnedMemory:
    """`size` bytes of the host that the device copies from and to by itself, freed with the object:
    arrays of it must not outlive it."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        made = cuda_driver().cuMemAllocHost(size)
        self.address = int(_allocated(made, size, "the host's pinned memory"))
        whole = (ctypes.c_char * size).from_address(self.address)
        self._bytes = np.frombuffer(memoryview(whole), np.uint8)
        weakref.finalize(self, _free_host, device, self.address)

    def array(self, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """The beginning, as an array."""
        dtype = np.dtype(kind)
        array: npt.NDArray[Any] = self._bytes[: math.prod(shape) * dtype.itemsize].view(dtype)
        return array.reshape(shape)


def _allocated(result: tuple[Any, ...], size: int, where: str) -> Any:
    out_of_memory = cuda_driver().CUresult.CUDA_ERROR_OUT_OF_MEMORY
    if result[0] == out_of_memory:
        raise BackendError(
            f"{where} has no room for {size / 2**20:.1f} MiB more: end other programs that use it, "
            "or take smaller frames"
        )
    return checked(result)[0]


def _free_graph(device: Device, graph: Any) -> None:
    with device.current():
        checked(cuda_driver().cuGraphExecDestroy(graph))


def _destroy(device: Device, stream: Any) -> None:
    with device.current():
        checked(cuda_driver().cuStreamDestroy(stream))


def _free_host(device: Device, address: int) -> None:
    with device.current():
        checked(cuda_driver().cuMemFreeHost(address))


def _free(device: Device, pointer: Any) -> None:
    with device.current():
        checked(cuda_driver().cuMemFree(pointer))
