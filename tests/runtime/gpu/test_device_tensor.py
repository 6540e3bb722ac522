"""Arrays on a GPU, over the stand-in for the driver: copies, crops, memory that is used anew."""

import gc
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
from support.cuda_emulation import worker

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu import cuda_driver, device_tensor
from dsin.runtime.gpu.cuda_driver import Memory, PinnedMemory, chosen_device
from dsin.runtime.gpu.device_tensor import DeviceTensor, cropped, on_device, on_host


@pytest.fixture(scope="module")
def machine() -> Iterator[Executor]:
    with worker() as pool:
        yield pool


def there_and_back(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return on_host(on_device(chosen_device(), array))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint8])
def test_an_array_comes_back_as_it_went(machine: Executor, kind: Any) -> None:
    # Not contiguous in memory.
    array = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 7, 5).swapaxes(2, 3).astype(kind)
    back = machine.submit(there_and_back, array).result()
    np.testing.assert_array_equal(back, array)
    assert back.dtype == kind


@pytest.mark.parametrize("chosen", ["-1", "1.5", "first", "²"])
def test_a_gpu_is_chosen_by_its_index(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("DSIN_GPU", chosen)
    with pytest.raises(BackendError, match=f"DSIN_GPU is '{chosen}': make it the index of a GPU"):
        cuda_driver.gpu_index()
    monkeypatch.setenv("DSIN_GPU", "")
    assert cuda_driver.gpu_index() == 0


def crop_there(array: np.ndarray[Any, Any], rows: int, columns: int) -> np.ndarray[Any, Any]:
    return on_host(cropped(on_device(chosen_device(), array), rows, columns))


@pytest.mark.parametrize("size", [(4, 5), (6, 9), (1, 1), (6, 2)])
def test_a_crop_is_that_of_the_host(machine: Executor, size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).normal(size=(1, 4, 6, 9)).astype(np.float32)
    expected = cropped(array, *size)
    np.testing.assert_array_equal(expected, array[:, :, : size[0], : size[1]])
    np.testing.assert_array_equal(machine.submit(crop_there, array, *size).result(), expected)


def addresses_of_frames() -> list[tuple[int, int]]:
    """Two tensors a frame, of which the first outlives the frame."""
    device, seen = chosen_device(), []
    kept = DeviceTensor(device, (3, 100), np.float32)
    for _ in range(5):
        first, second = (DeviceTensor(device, (3, 100), np.float32) for _ in range(2))
        assert len({kept.address, first.address, second.address}) == 3
        seen.append((first.address, second.address))
        kept = first
        del first, second
        gc.collect()
    return seen


def test_memory_is_used_anew_but_not_while_it_is_in_use(machine: Executor) -> None:
    frames = machine.submit(addresses_of_frames).result()
    assert len({address for frame in frames for address in frame}) == 3


def pool_of_old_sizes() -> int:
    device_tensor.MOST_FREE_BYTES = 10_000
    device = chosen_device()
    for size in range(1000, 3000, 100):
        DeviceTensor(device, (size,), np.uint8)
    free = device_tensor._pool(device)._free
    return sum(size * len(kept) for size, kept in free.items())


def test_memory_of_sizes_out_of_use_is_let_go(machine: Executor) -> None:
    assert 0 < machine.submit(pool_of_old_sizes).result() <= 10_000


def too_large(kind: type) -> None:
    device = chosen_device()
    with device.current():
        kind(device, 1 << 50)


@pytest.mark.parametrize(
    ("kind", "where"), [(Memory, "the GPU"), (PinnedMemory, "the host's pinned memory")]
)
def test_out_of_memory_is_one_line(machine: Executor, kind: type, where: str) -> None:
    with pytest.raises(BackendError) as caught:
        machine.submit(too_large, kind).result()
    assert str(caught.value) == (
        f"{where} has no room for 1073741824.0 MiB more: end other programs that use it, or take "
        "smaller frames"
    )


def chosen(setting: str | None) -> int:
    with pytest.MonkeyPatch.context() as patch:
        if setting is not None:
            patch.setenv(cuda_driver.GPU, setting)
        return chosen_device().index


def test_a_gpu_is_chosen_by_the_environment(machine: Executor) -> None:
    assert machine.submit(chosen, None).result() == 0
    assert machine.submit(chosen, "").result() == 0
    assert machine.submit(chosen, "1").result() == 1


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("7", "there is no CUDA device 7: this machine has 2"),
        ("-1", "DSIN_GPU is '-1': make it the index of a GPU, such as 0"),
        ("cuda:1", "DSIN_GPU is 'cuda:1': make it the index of a GPU, such as 0"),
    ],
)
def test_a_gpu_that_cannot_be_chosen_is_named(
    machine: Executor, setting: str, problem: str
) -> None:
    with pytest.raises(BackendError) as caught:
        machine.submit(chosen, setting).result()
    assert str(caught.value) == problem
