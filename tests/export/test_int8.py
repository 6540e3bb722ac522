"""8-bit graphs and bundles: ranges, rewriting, what stays in float, and what users see."""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conftest import textured_pair
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from dsin.calibration.int8 import (
    FLOAT_SHARE,
    quantise_graph,
    relative_error,
    run,
    sensitivity,
    spread,
)
from dsin.calibration.qdq import (
    Range,
    activation_scale,
    activations,
    multiplications,
    quantised,
    weight_scales,
)
from dsin.calibration.ranges import SAMPLES, Observed, candidates
from dsin.export.calibration_frames import set_sha256
from dsin.export.half_graph import read_graph
from dsin.export.int8_bundle import calibrate_bundle, graph_inputs, integer_graph
from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec import int8_support
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.commands.cli import app
from dsin.runtime.errors import BackendError, ExportError, FrameError
from dsin.runtime.evaluation.comparison import Point, bd_rates
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.metrics import psnr_db

Image = npt.NDArray[np.generic]


def small_graph() -> onnx.ModelProto:
    """x ─► conv a ─► relu ─► conv b ─► + a's result ─► conv c ─► y"""
    rng = np.random.default_rng(0)
    weights = {
        name: numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in {
            "wa": (8, 3, 1, 1), "ba": (8,), "wb": (8, 8, 3, 3), "bb": (8,), "wc": (4, 8, 1, 1),
        }.items()
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "wa", "ba"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["ra"], "ra"),
        helper.make_node("Conv", ["ra", "wb", "bb"], ["b"], "b", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ra"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "wc"], ["y"], "c"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, "h", "w"])
        for name, size in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], list(weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def inputs(count: int) -> list[dict[str, Image]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(0, 1, (1, 3, 12, 16)).astype(np.float32)} for _ in range(count)]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_what_has_to_be_of_8_bits() -> None:
    model = small_graph()
    assert activations(model, ["a", "b", "c"], "tensorrt") == ["x", "ra", "b", "sum", "y"]
    assert activations(model, ["c"], "tensorrt") == ["sum", "y"]
    assert activations(model, [], "tensorrt") == []


def test_on_cpus_pointwise_layers_yield_float_for_what_is_no_layer() -> None:
    model = small_graph()
    assert activations(model, ["a", "b", "c"], "cpu") == ["x", "ra", "b", "sum"]
    assert activations(model, ["c"], "cpu", rounded=["y"]) == ["sum", "y"]
    model.graph.node[3].input[1] = "b"
    assert activations(model, ["a"], "cpu") == ["x", "ra"], "a layer alone reads it"


def test_what_others_see_before_the_relu_is_of_8_bits_before_it() -> None:
    model = small_graph()
    assert list(model.graph.node[3].input) == ["b", "ra"]
    model.graph.node[3].input[1] = "a"
    expected = ["x", "a", "ra", "b", "sum", "y"]
    assert activations(model, ["a", "b", "c"], "tensorrt") == expected


def test_multiplications_are_those_of_all_places() -> None:
    """8·3·1·1, 8·8·3·3 and 4·8·1·1 weights at 12x16 places."""
    sizes = {"a": (1, 8, 12, 16), "b": (1, 8, 12, 16), "y": (1, 4, 12, 16)}
    assert multiplications(small_graph(), sizes) == {"a": 4608, "b": 110592, "c": 6144}


def test_scales_hold_zero_and_the_ends() -> None:
    for low, high in ((-1.0, 3.0), (0.0, 2.0), (1.0, 2.0), (-2.0, -1.0)):
        cpu = activation_scale(Range(low, high), "cpu")
        units = np.rint(np.array([low, 0.0, high]) / cpu.scale) + int(cpu.zero)
        assert cpu.zero.dtype == np.uint8
        assert units.min() >= -1
        assert units.max() <= 256
        signed = activation_scale(Range(low, high), "tensorrt")
        assert (signed.zero.dtype, int(signed.zero)) == (np.int8, 0)
        assert np.abs([low, high]).max() / signed.scale <= 127.001


def test_weights_use_all_of_their_bits() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3))
    units = weight / weight_scales(weight)[:, None, None, None]
    np.testing.assert_allclose(np.abs(units).reshape(5, -1).max(1), 127, rtol=1e-5)
    assert np.isfinite(1 / weight_scales(np.zeros((2, 1, 1, 1)))).all()


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_an_8_bit_graph_computes_nearly_the_same(target: str) -> None:
    model = small_graph()
    result = quantise_graph(model, inputs(3), target)  # type: ignore[arg-type]
    onnx.checker.check_model(result.model)
    expected, got = ([run(m, one) for one in inputs(3)] for m in (model, result.model))
    assert 0 < relative_error(expected, got) < 0.003
    assert result.error <= result.error_all
    assert {layer.name for layer in result.layers} == {"a", "b", "c"}
    kinds = {
        numpy_helper.to_array(t).dtype
        for t in result.model.graph.initializer
        if t.name.endswith("_zero")
    }
    assert kinds == {np.dtype(np.uint8 if target == "cpu" else np.int8)}
    # TensorRT wants its biases in float.
    biases = [n for n in result.model.graph.node if n.name in ("ba_dq", "bb_dq")]
    assert bool(biases) == (target == "cpu")


def test_runs_that_are_judged_on_are_spread() -> None:
    runs = [{"rate": np.array(number)} for number in range(9)]
    assert [int(one["rate"]) for one in spread(runs, 4)] == [0, 2, 4, 6]
    assert spread(runs[:3], 4) == runs[:3]


def test_a_layer_that_outweighs_all_hides_no_other() -> None:
    errors = {"worst": 1000.0, "bad": 5.0, "good": 0.01, "dear": 9.0}
    cost = {"worst": 1, "bad": 3, "good": 1, "dear": 395}
    assert cost["dear"] > FLOAT_SHARE * sum(cost.values()) > cost["worst"] + cost["bad"]
    shares, kept = sensitivity(lambda layers: sum(errors[n] for n in layers), list(errors), cost)
    assert kept == {"worst", "bad"}
    assert shares["worst"] > 0.98
    assert shares["bad"] == pytest.approx(5 / 14.01)


def test_errors_are_relative_to_the_variance_and_outputs_count_by_weight() -> None:
    """Errors of 1 and 4 squared units over variances of 4 and 1."""
    expected = [{"a": np.array([0.0, 4.0]), "b": np.array([5.0, 7.0])}]
    got = [{"a": np.array([1.0, 3.0]), "b": np.array([7.0, 9.0])}]
    assert relative_error(expected, got) == pytest.approx((0.25 + 4) / 2)
    assert relative_error(expected, got, {"a": 3, "b": 1}) == pytest.approx((3 * 0.25 + 4) / 4)


@pytest.mark.parametrize(("cost", "kept"), [(19, {"dear"}), (21, set())])
def test_layers_in_float_have_2_per_cent_of_the_arithmetic(cost: int, kept: set[str]) -> None:
    errors = {"dear": 9.0, "rest": 0.01}
    costs = {"dear": cost, "rest": 1000 - cost}
    assert (
        sensitivity(lambda layers: sum(errors[n] for n in layers), list(errors), costs)[1] == kept
    )


def test_layers_left_out_stay_as_they_were() -> None:
    model = small_graph()
    ranges = {name: Range(-4, 4) for name in activations(model, ["a", "b"], "cpu")}
    out = quantised(model, ranges, ["a", "b"], "cpu")
    (last,) = (node for node in out.graph.node if node.name == "c")
    assert last.input[1] == "wc"
    assert operators(out).count("QuantizeLinear") == 3
    assert operators(model) == operators(small_graph()), "the original is left alone"


def test_ranges_are_what_the_methods_say() -> None:
    """Of values whose density falls as e⁻ˣ: percentiles are ln 1000 and ln 10,000."""
    seen = Observed()
    seen.add(-np.log((np.arange(SAMPLES) + 0.5) / SAMPLES))
    seen.high = 16.0
    found = {name: round(range_.high, 2) for name, range_ in candidates(seen).items()}
    assert found == {"extremes": 16, "percentile 99.99": 8.99, "squared error": 10.24}
    assert {abs(range_.low) < 0.01 for range_ in candidates(seen).values()} == {True}


def test_candidates_leave_rare_values_out() -> None:
    seen = Observed()
    rng = np.random.default_rng(0)
    for _ in range(4):
        values = rng.normal(0, 1, 20_000)
        values[0] = 400
        seen.add(values)
    found = candidates(seen)
    assert found["extremes"].high == 400
    assert found["percentile 99.99"].high < 10
    assert found["squared error"].high <= 400
    zero = Observed()
    zero.add(np.zeros(100))
    assert all(np.isfinite(range_).all() for range_ in candidates(zero).values())


@pytest.fixture(scope="module")
def frames() -> list[Image]:
    return [view for number in range(4) for view in textured_pair(64, 128, number)]


@pytest.fixture(scope="module")
def int8_bundle(
    edge_bundle: Path, frames: list[Image], tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    folder = tmp_path_factory.mktemp("int8")
    pairs = []
    for number in range(2):
        files = folder / f"{number}_x.png", folder / f"{number}_y.png"
        for file, view in zip(files, textured_pair(176, 200, number), strict=True):
            assert cv2.imwrite(str(file), view[:, :, ::-1])
        pairs.append(Pair(*files))
    done = calibrate_bundle(edge_bundle, frames, folder / "int8", validation=pairs)
    assert done.report == json.loads((folder / "int8" / "report.json").read_text())
    before, after = (open_bundle(path).file_bytes for path in (edge_bundle, folder / "int8"))
    assert (done.bytes_before, done.bytes_after) == (sum(before.values()), sum(after.values()))
    assert done.bytes_after < done.bytes_before
    return folder / "int8"


def test_packets_of_both_bundles_are_of_one_codec(edge_bundle: Path, int8_bundle: Path) -> None:
    x, y = textured_pair(100, 150, 9)
    before, after = open_bundle(edge_bundle), open_bundle(int8_bundle)
    assert before.codec_id == after.codec_id
    assert before.model_id == after.model_id
    with Encoder(after) as encoder, Decoder(before) as decoder, Decoder(after) as both:
        packet = encoder.encode(x, rate=1)
        one, other = (d.decode(packet, y).image.astype(float) for d in (decoder, both))
    assert np.abs(one - other).mean() < 6


def coded(bundle: Bundle, x: Image, y: Image) -> dict[str, float]:
    """Size and quality of one picture at the bundle's default rate, as a report tells them."""
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(x)
        return {"bytes": len(packet), "psnr_db": psnr_db(decoder.decode(packet, y).image, x)}


def test_the_bundle_tells_how_it_was_calibrated(
    edge_bundle: Path, int8_bundle: Path, frames: list[Image]
) -> None:
    note = open_bundle(int8_bundle).training["calibration"]
    report = json.loads((int8_bundle / "report.json").read_text())
    assert note["frames"] == report["frames"] == len(frames)
    assert note["frames_sha256"] == report["frames_sha256"] == set_sha256(frames)
    assert note == {key: report[key] for key in ("target", "frames", "frames_sha256", "pictures")}
    assert not {"export", "metrics"} & set(open_bundle(int8_bundle).training)
    assert report["bundle"] == "small"
    bundles = {"float": open_bundle(edge_bundle), "int8": open_bundle(int8_bundle)}
    assert report["first_frame"] == {
        name: pytest.approx(coded(bundle, *frames[:2])) for name, bundle in bundles.items()
    }
    assert set(report["speed_ratio"]) == set(report["graphs"])
    assert all(0.001 < ratio < 1000 for ratio in report["speed_ratio"].values())
    for graph in report["graphs"].values():
        assert set(graph) == {
            "relative_error_all_layers", "relative_error", "layers", "method", "ranges",
        }  # fmt: skip
    assert open_bundle(int8_bundle).weights_licence == "random weights"
    assert set(report["graphs"]) == {"encoder", "x_decoder", "fusion"}
    curves = {name: [Point(**p) for p in curve] for name, curve in report["points"].items()}
    assert {name: len(curve) for name, curve in curves.items()} == {"float": 3, "int8": 3}
    assert report["bd_rate_percent"] == bd_rates(curves["int8"], curves["float"])
    assert (int8_bundle / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {"report.json", "report.png"} <= set(open_bundle(int8_bundle).file_bytes)
    for layer in report["graphs"]["encoder"]["layers"]:
        assert set(layer) == {"name", "harm", "gmac", "in_float"}


def test_graphs_are_judged_on_what_they_are_given(edge_bundle: Path, frames: list[Image]) -> None:
    bundle = open_bundle(edge_bundle)
    runs = graph_inputs(bundle, frames)
    rates = {name: [int(one["rate"][0]) for one in given] for name, given in runs.items()}
    views = [1, 1, 0, 0, 2, 2, 1, 1]
    assert rates == {"encoder": views, "x_decoder": views, "fusion": [1, 0, 2, 1]}
    for name, given in runs.items():
        graph = read_graph(bundle.graph_path(name))
        assert {value.name for value in graph.graph.input} == set(given[0])
    for seen, frame in zip(runs["encoder"], frames, strict=True):
        np.testing.assert_array_equal(seen["x"][0].transpose(1, 2, 0), frame)
    decoder = open_session(bundle.graph_path("x_decoder"))
    for fused, given_to_x in zip(runs["fusion"], runs["x_decoder"][::2], strict=True):
        for name, value in decoder.run(**given_to_x).items():
            np.testing.assert_allclose(fused[name], value, rtol=1e-4, atol=1e-2)


def test_a_neighbour_of_another_size_is_replaced_by_the_picture_moved(
    edge_bundle: Path, frames: list[Image]
) -> None:
    upright = np.ascontiguousarray(frames[1].transpose(1, 0, 2))
    seen = graph_inputs(open_bundle(edge_bundle), [frames[0], upright])["encoder"]
    np.testing.assert_array_equal(seen[0]["x"][0].transpose(1, 2, 0), frames[0])
    np.testing.assert_array_equal(seen[1]["x"], np.roll(seen[0]["x"], 5, 3))


def test_layers_in_float_are_stored_in_16_bits() -> None:
    model = small_graph()
    ranges = {name: Range(-4, 4) for name in activations(model, ["a", "b"], "tensorrt")}
    out = integer_graph(quantised(model, ranges, ["a", "b"], "tensorrt"), "tensorrt")
    kinds = {t.name: numpy_helper.to_array(t).dtype for t in out.graph.initializer}
    assert kinds["wc.half"] == np.float16
    assert "wc" not in kinds


def test_a_processor_that_would_compute_wrongly_is_refused(
    int8_bundle: Path, edge_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x86 without VNNI saturates; others, and machines that do not tell, are let through."""
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(int8_support, "CPU_FACTS", facts)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cases = {"flags\t\t: fpu avx2 avx512f\n": False, "flags : avx2 avx_vnni\n": True, "": True}
    for text, good in cases.items():
        facts.write_text(text)
        if good:
            int8_support.check_int8(open_bundle(int8_bundle))
        else:
            with pytest.raises(BackendError, match="no VNNI"):
                Encoder(int8_bundle)
            with pytest.raises(BackendError, match="no VNNI"):
                Decoder(int8_bundle)
            int8_support.check_int8(open_bundle(edge_bundle))
    facts.write_text("flags : avx2\n")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    int8_support.check_int8(open_bundle(int8_bundle))


def test_mistakes_are_refused(
    edge_bundle: Path, int8_bundle: Path, tiny_bundle: Path, frames: list[Image],
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(FrameError, match="8 pictures or more, not 3"):
        calibrate_bundle(edge_bundle, frames[:3], tmp_path / "out")
    with pytest.raises(ExportError, match="transposed convolutions"):
        calibrate_bundle(tiny_bundle, frames, tmp_path / "out")
    with pytest.raises(ExportError, match="already has 8-bit networks"):
        calibrate_bundle(int8_bundle, frames, tmp_path / "out")
    with pytest.raises(FrameError, match="64x64"):
        calibrate_bundle(edge_bundle, [f[:50] for f in frames], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_names_unreadable_pictures(edge_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(b"torn")
    arguments = ["calibrate", str(edge_bundle), "--frames", str(folder), "-o", str(tmp_path / "o")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, FrameError)
    assert "0.png is not an image" in str(done.exception)
    assert not (tmp_path / "o").exists()
