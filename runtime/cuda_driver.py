"""NVIDIA's driver through its own Python binding: loaded when first asked for."""

import ctypes
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BackendError

INSTALL = "pip install 'dsin[cuda]'"
"""What brings the binding and the compiler."""


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


class Device:
    """One GPU and its primary context, which PyTorch, onnxruntime and TensorRT use as well."""

    def __init__(self, index: int) -> None:
        driver = cuda_driver()
        count = checked(driver.cuDeviceGetCount())[0]
        if not 0 <= index < count:
            raise BackendError(f"there is no CUDA device {index}: this machine has {count}")
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
        self._pointer = checked(cuda_driver().cuMemAlloc(size))[0]
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
        flag = cuda_driver().CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = checked(cuda_driver().cuStreamCreate(flag))[0]
        self.handle = int(self._stream)
        """The CUstream as a number."""
        weakref.finalize(self, _destroy, device, self._stream)

    def synchronise(self) -> None:
        """Wait for all that the stream was given. Raises BackendError where some of it failed."""
        checked(cuda_driver().cuStreamSynchronize(self._stream))

    def upload(self, target: Memory, source: "PinnedMemory", size: int) -> None:
        """Copy `size` bytes to the device; returns at once."""
        driver = cuda_driver()
        checked(driver.cuMemcpyHtoDAsync(target.address, source.address, size, self._stream))

    def download(self, target: "PinnedMemory", source: Memory, size: int) -> None:
        """Copy `size` bytes from the device; returns at once."""
        driver = cuda_driver()
        checked(driver.cuMemcpyDtoHAsync(target.address, source.address, size, self._stream))


class PinnedMemory:
    """`size` bytes of the host that the device copies from and to by itself, freed with the object:
    arrays of it must not outlive it."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self.address = int(checked(cuda_driver().cuMemAllocHost(size))[0])
        whole = (ctypes.c_char * size).from_address(self.address)
        self._bytes = np.frombuffer(memoryview(whole), np.uint8)
        weakref.finalize(self, _free_host, device, self.address)

    def array(self, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """The beginning, as an array."""
        dtype = np.dtype(kind)
        array: npt.NDArray[Any] = self._bytes[: math.prod(shape) * dtype.itemsize].view(dtype)
        return array.reshape(shape)


def _destroy(device: Device, stream: Any) -> None:
    with device.current():
        checked(cuda_driver().cuStreamDestroy(stream))


def _free_host(device: Device, address: int) -> None:
    with device.current():
        checked(cuda_driver().cuMemFreeHost(address))


def _free(device: Device, pointer: Any) -> None:
    with device.current():
        checked(cuda_driver().cuMemFree(pointer))
