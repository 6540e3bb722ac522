"""The backend `cuda` with inputs and outputs bound to device memory.

onnxruntime's provider for the CPU takes the place of that for CUDA, and the stand-in for the driver
has its device memory on the host, so that addresses mean the same to both.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import textured_pair
from support.cuda_emulation import copied_bytes, gpu, worker
from support.stage_watch import watched_decode

from dsin.runtime.backends import ort_cuda as backend_ort_cuda
from dsin.runtime.backends.ort_cuda import OrtCudaSession, Place
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import Device, Stream, chosen_device
from dsin.runtime.gpu.device_tensor import DeviceTensor, on_device, on_host

FRAME = (100, 150)


class CpuPlace(Place):
    provider = "CPUExecutionProvider"
    memory = "cpu"

    def providers(self, device: Device, stream: Stream, *, exact: bool) -> list[Any]:
        return [self.provider]


def pretend() -> None:
    backend_ort_cuda.Place = CpuPlace  # type: ignore[misc]


@pytest.fixture(scope="module")
def machine() -> Iterator[Executor]:
    """A process in which the backend `cuda` is what the module says above."""
    with worker() as pool:
        pool.submit(pretend).result()
        yield pool


def round_trip(bundle: Path) -> tuple[bytes, Any]:
    left, right = textured_pair(*FRAME, seed=3)
    with Encoder(bundle, "cuda", threads=1) as encoder:
        packets = [encoder.encode(left) for _ in range(2)]
    assert packets[0] == packets[1]
    with Decoder(bundle, "cuda", threads=1) as decoder:
        pictures = [decoder.decode(packets[0], right).image for _ in range(2)]
    np.testing.assert_array_equal(*pictures)
    return bytes(packets[0]), pictures[0]


@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle"])
def test_bytes_and_picture_are_those_of_the_cpu(
    machine: Executor, request: pytest.FixtureRequest, name: str
) -> None:
    bundle = request.getfixturevalue(name)
    packet, picture = machine.submit(round_trip, bundle).result()
    left, right = textured_pair(*FRAME, seed=3)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        assert packet == bytes(encoder.encode(left))
        np.testing.assert_array_equal(picture, decoder.decode(packet, right).image)


@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle"])
def test_stages_hand_over_on_the_device(
    machine: Executor, request: pytest.FixtureRequest, name: str
) -> None:
    bundle = request.getfixturevalue(name)
    seen = machine.submit(watched_decode, bundle, "cuda", FRAME).result()
    seen.check(name)


def bound_addresses(graph: Path) -> tuple[list[int], list[int]]:
    """Of the inputs and the outputs of three runs, as onnxruntime is told."""
    session = OrtCudaSession(graph, 1)
    real, seen = session._where, []

    def watched(tensor: DeviceTensor) -> tuple[Any, ...]:
        seen.append(tensor.address)
        return real(tensor)

    session._where = watched  # type: ignore[method-assign]
    x = np.zeros((1, 3, 24, 24), np.float32)
    for _ in range(3):
        session.run(x_dec=x, y_syn=x)
    # The first has one run more, to learn the size of the output.
    return seen[2:5], seen[5:8] + seen[8:]


def test_memory_is_kept_from_frame_to_frame(machine: Executor, tiny_bundle: Path) -> None:
    first, later = machine.submit(bound_addresses, tiny_bundle / "fusion.onnx").result()
    assert later == first * 2


def sizes_in_turn(graph: Path) -> None:
    bound, plain = OrtCudaSession(graph, 1), open_session(graph, threads=1)
    assert bound.provider == "CPUExecutionProvider"
    rng, kept = np.random.default_rng(0), []
    for size in ((24, 32), (48, 40), (24, 32), (24, 32)):
        x, y = (rng.uniform(0, 255, (1, 3, *size)).astype(np.float32) for _ in range(2))
        there = on_device(chosen_device(), x)
        kept.append((bound.keep(x_dec=there, y_syn=y), plain.run(x_dec=x, y_syn=y)))
    for got, expected in kept:
        assert isinstance(got["x_hat"], DeviceTensor)
        np.testing.assert_array_equal(on_host(got["x_hat"]), expected["x_hat"])


def test_what_is_kept_is_not_written_over(machine: Executor, tiny_bundle: Path) -> None:
    machine.submit(sizes_in_turn, tiny_bundle / "fusion.onnx").result()


def copies_of_a_run(graph: Path) -> tuple[int, int]:
    session = OrtCudaSession(graph, 1)
    x = on_device(chosen_device(), np.zeros((1, 3, 24, 24), np.float32))
    before = copied_bytes()
    session.keep(x_dec=x, y_syn=x)
    return copied_bytes()[0] - before[0], copied_bytes()[1] - before[1]


def test_tensors_of_the_device_are_not_copied(machine: Executor, tiny_bundle: Path) -> None:
    assert machine.submit(copies_of_a_run, tiny_bundle / "fusion.onnx").result() == (0, 0)


def refused(graph: Path, kind: Any, size: tuple[int, ...]) -> str:
    session = OrtCudaSession(graph, 1)
    with pytest.raises(BackendError) as caught:
        session.run(x_dec=np.zeros(size, kind), y_syn=np.zeros(size, kind))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unfit_inputs_are_one_line(machine: Executor, tiny_bundle: Path) -> None:
    graph = tiny_bundle / "fusion.onnx"
    assert machine.submit(refused, graph, np.float64, (1, 3, 24, 24)).result() == (
        "fusion.onnx: x_dec is float64, and the graph takes float32"
    )
    found = machine.submit(refused, graph, np.float32, (1, 7, 24, 24)).result()
    assert found.startswith("onnxruntime cannot run fusion.onnx: ")


def test_cuda_is_asked_for_in_the_sessions_stream_and_on_its_gpu(machine: Executor) -> None:
    (cuda, cpu), handle = machine.submit(cuda_options).result()
    assert cuda == (
        "CUDAExecutionProvider",
        {"device_id": 0, "use_tf32": 0, "user_compute_stream": handle},
    )
    assert cpu == "CPUExecutionProvider"


def cuda_options() -> tuple[list[Any], str]:
    device = chosen_device()
    with device.current():
        stream = Stream(device)
        return Place().providers(device, stream, exact=True), str(stream.handle)


def test_without_a_driver_the_error_says_so(
    edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"binding is not installed: pip install 'dsin\[cuda\]'"):
        open_session(edge_bundle / "encoder.onnx", "cuda")


# On a GPU.


@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle"])
def test_the_gpu_codes_and_decodes_as_the_cpu_does(
    request: pytest.FixtureRequest, name: str
) -> None:
    bundle: Path = request.getfixturevalue(name)
    if Place.provider not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider for CUDA")
    with gpu():
        packet, picture = round_trip(bundle)
    with Decoder(bundle) as decoder:
        # The same integers on both: else the picture would fall to pieces.
        on_cpu = decoder.decode(packet, textured_pair(*FRAME, seed=3)[1]).image
    difference = on_cpu.astype(float) - picture.astype(float)
    assert np.sqrt((difference**2).mean()) < 1
