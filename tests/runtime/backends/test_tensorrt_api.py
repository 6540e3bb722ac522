"""What is said of TensorRT's failures, without TensorRT."""

import pytest

from dsin.runtime.backends.tensorrt_api import cure_of


@pytest.mark.parametrize(
    ("reason", "is_memory"),
    [
        ("Cuda Runtime (out of memory)", True),
        ("error code 2: OutOfMemory (Requested size was 4096)", True),
        ("Skipping tactic due to insufficient memory", True),
        ("no implementation for node", False),
    ],
)
def test_room_is_made_where_memory_is_lacking(reason: str, is_memory: bool) -> None:
    room = "end other programs that use the GPU, or take smaller frames"
    assert cure_of(reason, "build it anew") == (room if is_memory else "build it anew")
