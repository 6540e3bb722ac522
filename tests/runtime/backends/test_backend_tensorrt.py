"""The backend `tensorrt`, on a stand-in for the driver and engines that onnxruntime computes.

Encoder, decoder, search and entropy coding are the product's; see `fake_engines` for what is not.
"""

import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import textured_pair
from support import fake_engines
from support.cuda_emulation import Graphs, graphs, worker
from support.fake_engines import write_fake
from support.stage_watch import Crossings, watched_decode

from dsin.runtime.backends import tensorrt as backend_tensorrt
from dsin.runtime.backends import tensorrt_api
from dsin.runtime.backends.engine_files import engine_folder
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.device_tensor import on_host

FRAME = (100, 150)


@pytest.fixture(scope="module")
def machine() -> Iterator[Executor]:
    """A process with the stand-ins for the driver and for TensorRT."""
    with worker() as pool:
        pool.submit(pretend).result()
        yield pool


def pretend() -> None:
    sys.modules["tensorrt"] = fake_engines.tensorrt_like  # type: ignore[assignment]
    backend_tensorrt.register_plugin = lambda: None  # type: ignore[assignment]


def write_all(bundle_path: Path, engines: Path, precision: Any = "fp32", **changed: Any) -> None:
    """Fake engines of a bundle's graphs, for frames of FRAME."""
    from dsin.export.tensorrt_engine import profile_of

    os.environ["DSIN_ENGINES"] = str(engines)
    bundle = open_bundle(bundle_path)
    for name in set(bundle.graphs) - {"decoder"}:
        path = bundle.graph_path(name)
        inputs = {n: tuple(s) for n, s in graph_shapes(path).items()}
        profile = profile_of(bundle, name, inputs, FRAME)
        ends = {key: (low, high) for key, (low, _, high) in profile.items()}
        kind = "exact" if name in bundle.entropy_graphs else precision
        write_fake(engine_folder(bundle_path), path, ends, kind, FRAME, **changed)


def graph_shapes(path: Path) -> dict[str, list[int]]:
    """As TensorRT has them: -1 where any length goes."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }


def round_trip(bundle: Path, engines: Path, backend: Any) -> tuple[bytes, Any, str]:
    write_all(bundle, engines, "fp16" if backend == "tensorrt-fp16" else "fp32")
    left, right = textured_pair(*FRAME, seed=3)
    with Encoder(bundle, backend) as encoder, Decoder(bundle, backend) as decoder:
        packets = [encoder.encode(left) for _ in range(2)]
        assert packets[0] == packets[1]
        picture = decoder.decode(packets[0], right).image
        assert np.array_equal(picture, decoder.decode(packets[0], right).image)
    session = open_session(open_bundle(bundle).graph_path("encoder"), backend)
    return bytes(packets[0]), picture, session.provider


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-fp16"])
@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle", "flow_bundle"])
def test_bytes_and_picture_are_those_of_the_cpu(
    machine: Executor, tmp_path: Path, request: pytest.FixtureRequest, name: str, backend: Any
) -> None:
    bundle = request.getfixturevalue(name)
    packet, picture, provider = machine.submit(round_trip, bundle, tmp_path, backend).result()
    left, right = textured_pair(*FRAME, seed=3)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        assert packet == bytes(encoder.encode(left))
        np.testing.assert_array_equal(picture, decoder.decode(packet, right).image)
    assert provider == "TensorRT 10.3.0"


def test_precision_is_asked_for(machine: Executor, tmp_path: Path, edge_bundle: Path) -> None:
    def refused() -> str:
        return machine.submit(refusal_of_encoder, edge_bundle, tmp_path, "tensorrt").result()

    machine.submit(write_all, edge_bundle, tmp_path, "fp16").result()
    assert "is of fp16, not fp32, which --backend tensorrt wants: rebuild with" in refused()


def refusal_of_encoder(
    bundle: Path, engines: Path, backend: Any = "tensorrt", size: Any = FRAME
) -> str:
    os.environ["DSIN_ENGINES"] = str(engines)
    with pytest.raises(BackendError) as caught, Encoder(bundle, backend) as encoder:
        encoder.encode(textured_pair(*size, seed=0)[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_frames_of_another_size_are_refused(
    machine: Executor, tmp_path: Path, edge_bundle: Path
) -> None:
    machine.submit(write_all, edge_bundle, tmp_path).result()
    refusal = machine.submit(
        refusal_of_encoder, edge_bundle, tmp_path, "tensorrt", (200, 150)
    ).result()
    assert refusal == (
        "the engine of encoder.onnx is for frames of 100x150, not for rate 1, x 1x3x256x192: "
        f"build with dsin-export trt {edge_bundle} --precision fp32 --frame HEIGHTxWIDTH"
    )


def test_an_engine_that_tensorrt_cannot_load_is_one_line(
    machine: Executor, tmp_path: Path, edge_bundle: Path
) -> None:
    machine.submit(write_all, edge_bundle, tmp_path, plan=b"of no use").result()
    refusal = machine.submit(refusal_of_encoder, edge_bundle, tmp_path).result()
    assert "(Error Code 1: magic tag does not match): rebuild with dsin-export trt" in refusal


def test_an_engine_too_large_for_the_gpu_is_not_to_be_rebuilt(
    machine: Executor, tmp_path: Path, edge_bundle: Path
) -> None:
    machine.submit(write_all, edge_bundle, tmp_path, plan=b"too large").result()
    refusal = machine.submit(refusal_of_encoder, edge_bundle, tmp_path).result()
    assert refusal.endswith(
        "(Error Code 1: Cuda Runtime (out of memory)): end other programs that use the GPU, or "
        "take smaller frames"
    )


def broken(bundle: Path, engines: Path, switch: str) -> str:
    flag = getattr(fake_engines, switch)
    flag.append(True)
    try:
        return refusal_of_encoder(bundle, engines)
    finally:
        flag.clear()


@pytest.mark.parametrize(
    ("switch", "problem"), [("NO_ROOM", "has no room on the GPU"), ("FAILS", "failed")]
)
def test_failures_of_the_engine_are_one_line(
    machine: Executor, tmp_path: Path, edge_bundle: Path, switch: str, problem: str
) -> None:
    machine.submit(write_all, edge_bundle, tmp_path).result()
    assert problem in machine.submit(broken, edge_bundle, tmp_path, switch).result()


def sizes_in_turn(graph: Path, engines: Path) -> None:
    """Two sizes of one engine in turn, and inputs that are no copies in memory."""
    os.environ["DSIN_ENGINES"] = str(engines)
    folder = engine_folder(graph.parent)
    ends = {"symbols": ((1, 32, 2, 2), (1, 32, 20, 20))}
    write_fake(folder, graph, ends)
    session, expected = open_session(graph, "tensorrt"), open_session(graph, "cpu", threads=1)
    rng = np.random.default_rng(0)
    kept = []
    for size in ((5, 6), (10, 12), (5, 6), (5, 6)):
        symbols = rng.integers(0, 6, (1, 32, *size[::-1]), np.uint8).transpose(0, 1, 3, 2)
        wanted = expected.run(symbols=np.ascontiguousarray(symbols))["x_dec"]
        kept.append((session.run(symbols=symbols)["x_dec"], wanted))
    for result, wanted in kept:
        np.testing.assert_array_equal(result, wanted)


def test_sizes_may_change_within_the_range(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    machine.submit(sizes_in_turn, tiny_bundle / "x_decoder.onnx", tmp_path).result()


def wrong_type(graph: Path, engines: Path) -> str:
    os.environ["DSIN_ENGINES"] = str(engines)
    write_fake(engine_folder(graph.parent), graph, {"symbols": ((1, 32, 2, 2), (1, 32, 2, 2))})
    session = open_session(graph, "tensorrt")
    with pytest.raises(BackendError) as caught:
        session.run(symbols=np.zeros((1, 32, 2, 2), np.int64))
    return str(caught.value)


def test_a_wrong_type_never_reaches_the_gpu(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    refusal = machine.submit(wrong_type, tiny_bundle / "x_decoder.onnx", tmp_path).result()
    assert "symbols is int64, and the engine takes uint8" in refusal


# From stage to stage.


def watched(bundle: Path, engines: Path) -> Crossings:
    write_all(bundle, engines)
    return watched_decode(bundle, "tensorrt", FRAME)


@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle"])
def test_stages_hand_over_on_the_device(
    machine: Executor, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    bundle = request.getfixturevalue(name)
    machine.submit(watched, bundle, tmp_path).result().check(name)


def loads(bundle: Path, engines: Path) -> tuple[list[bytes], list[bytes], int]:
    """Plans loaded by an encoder, by a decoder beside it, and engines left when both are closed."""
    write_all(bundle, engines)
    gc.collect()
    fake_engines.LOADED.clear()
    with Encoder(bundle, "tensorrt"):
        first = list(fake_engines.LOADED)
        with Decoder(bundle, "tensorrt"):
            second = list(fake_engines.LOADED)[len(first) :]
    gc.collect()
    return first, second, len(backend_tensorrt._LOADED)


def test_engines_are_loaded_once_a_process(
    machine: Executor, tmp_path: Path, edge_bundle: Path
) -> None:
    encoder, decoder, left = machine.submit(loads, edge_bundle, tmp_path).result()
    assert {Path(os.fsdecode(plan)).stem for plan in encoder} == {
        "encoder", "hyper", "step0", "step1", "step2", "step3",
    }  # fmt: skip
    assert len(encoder) == 6
    assert [Path(os.fsdecode(plan)).stem for plan in decoder] == ["x_decoder", "fusion"]
    assert left == 0


def device_of_session(bundle: Path, engines: Path, chosen: str) -> int:
    write_all(bundle, engines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSIN_GPU", chosen)
        session: Any = open_session(bundle / "encoder.onnx", "tensorrt")
    out = session.run(x=np.zeros((1, 3, 128, 192), np.float32), rate=np.zeros(1, np.int64))
    assert out["y"].shape == (1, 8, 8, 12)
    return int(session._device.index)


def test_a_gpu_is_chosen_by_the_environment(
    machine: Executor, tmp_path: Path, edge_bundle: Path
) -> None:
    assert machine.submit(device_of_session, edge_bundle, tmp_path, "1").result() == 1
    with pytest.raises(BackendError, match="there is no CUDA device 2: this machine has 2"):
        machine.submit(device_of_session, edge_bundle, tmp_path, "2").result()


# CUDA graphs.


def fusion_session(graph: Path, engines: Path) -> Any:
    os.environ["DSIN_ENGINES"] = str(engines)
    ends = ((1, 3, 8, 8), (1, 3, 80, 80))
    write_fake(engine_folder(graph.parent), graph, {"x_dec": ends, "y_syn": ends})
    return open_session(graph, "tensorrt")


def difference(after: Graphs, before: Graphs) -> Graphs:
    return Graphs(*(a - b for a, b in zip(after, before, strict=True)))


def captures(graph: Path, engines: Path, sizes: list[int], kept: int) -> list[Graphs]:
    """Graphs after each run of a session, and after its end, since the beginning. Of the outputs,
    `kept` stay on the device until as many runs later; 0 are fetched at once."""
    gc.collect()
    before, seen = graphs(), []
    session, plain = fusion_session(graph, engines), open_session(graph, threads=1)
    rng, waiting = np.random.default_rng(0), []
    for size in sizes:
        x, y = (rng.uniform(0, 255, (1, 3, size, size)).astype(np.float32) for _ in range(2))
        run = session.keep if kept else session.run
        waiting.append((run(x_dec=x, y_syn=y)["x_hat"], plain.run(x_dec=x, y_syn=y)["x_hat"]))
        if len(waiting) > kept:
            got, expected = waiting.pop(0)
            np.testing.assert_array_equal(on_host(got), expected)
            del got
        seen.append(difference(graphs(), before))
    for got, expected in waiting:
        np.testing.assert_array_equal(on_host(got), expected)
    del session, run
    gc.collect()
    return [*seen, difference(graphs(), before)]


def test_the_first_run_is_plain_the_second_captured_the_others_replayed(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    found = machine.submit(captures, tiny_bundle / "fusion.onnx", tmp_path, [24] * 5, 0).result()
    assert [(g.instantiated, g.launched) for g in found] == [
        (0, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 4),
    ]  # fmt: skip
    assert [g.destroyed for g in found] == [0, 0, 0, 0, 0, 1]
    assert {g.records for g in found} == {0}


def test_another_size_begins_anew(machine: Executor, tmp_path: Path, tiny_bundle: Path) -> None:
    sizes = [24, 24, 32, 32, 32, 24, 24]
    found = machine.submit(captures, tiny_bundle / "fusion.onnx", tmp_path, sizes, 0).result()
    assert [g.launched for g in found] == [0, 1, 1, 2, 3, 3, 4, 4]
    assert [g.destroyed for g in found] == [0, 0, 1, 1, 1, 2, 2, 3]


def test_outputs_in_turn_are_graphs_in_turn(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    """Two outputs are alive at a time, so the third run's goes to memory of the first's."""
    found = machine.submit(captures, tiny_bundle / "fusion.onnx", tmp_path, [24] * 9, 1).result()
    assert found[-2].launched == 8
    assert found[-2].instantiated == 2
    assert found[-1].destroyed == 2


def test_graphs_do_not_pile_up(machine: Executor, tmp_path: Path, tiny_bundle: Path) -> None:
    """Twelve outputs are alive at a time, more than there are graphs."""
    found = machine.submit(captures, tiny_bundle / "fusion.onnx", tmp_path, [24] * 40, 12).result()
    assert max(g.instantiated - g.destroyed for g in found) == backend_tensorrt.MOST_GRAPHS
    assert found[-1].instantiated == found[-1].destroyed


def uncapturable(graph: Path, engines: Path) -> tuple[str, Graphs]:
    """The refusal of the second run, and what graphs it leaves; without graphs, all runs work."""
    x = np.ones((1, 3, 24, 24), np.float32)
    before = graphs()
    fake_engines.WAITS.append(True)
    try:
        session = fusion_session(graph, engines)
        session.run(x_dec=x, y_syn=x)
        with pytest.raises(BackendError) as caught:
            session.run(x_dec=x, y_syn=x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DSIN_CUDA_GRAPHS", "0")
            plain = fusion_session(graph, engines)
            for _ in range(3):
                plain.run(x_dec=x, y_syn=x)
    finally:
        fake_engines.WAITS.clear()
    # The stream is in order again.
    session.run(x_dec=x, y_syn=x)
    return str(caught.value), difference(graphs(), before)


def test_a_capture_that_fails_says_how_to_do_without(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    graph = tiny_bundle / "fusion.onnx"
    refusal, left = machine.submit(uncapturable, graph, tmp_path).result()
    assert "cannot be captured as a CUDA graph (the engine fusion-fp32" in refusal
    assert refusal.endswith(
        "operation not permitted when stream is capturing): set DSIN_CUDA_GRAPHS=0"
    )
    assert (left.instantiated, left.records) == (1, 0)


def setting(graph: Path, engines: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSIN_CUDA_GRAPHS", "maybe")
        fusion_session(graph, engines)


def test_a_setting_that_is_none_is_refused(
    machine: Executor, tmp_path: Path, tiny_bundle: Path
) -> None:
    with pytest.raises(BackendError, match="DSIN_CUDA_GRAPHS is 'maybe': set it to 0 or 1"):
        machine.submit(setting, tiny_bundle / "fusion.onnx", tmp_path).result()


# Without what is needed.


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-fp16"])
def test_without_tensorrt_the_error_says_what_to_install(
    edge_bundle: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"tensorrt is not installed: pip install 'dsin\[tens"):
        Encoder(edge_bundle, backend)


def test_without_a_gpu_the_error_says_so(
    edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "tensorrt", fake_engines.tensorrt_like)
    monkeypatch.setattr(tensorrt_api.ctypes, "CDLL", absent)
    with pytest.raises(BackendError, match=r"there is no CUDA driver here: install NVIDIA's"):
        Encoder(edge_bundle, "tensorrt")
