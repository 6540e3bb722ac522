"""The CPU's kernels yield the integers of the definition, on layers of all sizes and extremes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from dsin.export.edge.integer_graph import hyper_graph, step_graph
from dsin.export.weights import save_graphs
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.edge import open_kernels, open_sessions
from dsin.runtime.entropy.hyper_codec import CodedParts, HyperCodec, HyperTables, Kept
from dsin.runtime.entropy.hyper_kernels import CONTEXT, SIGNED
from dsin.runtime.entropy.integer_network import EXACT, IntegerLayer, run_reference
from dsin.runtime.entropy.integer_tiles import BLOCK
from dsin.runtime.entropy.kernel_network import KernelNetwork
from dsin.runtime.entropy.session_network import SessionNetwork
from dsin.runtime.entropy.stored_layers import read_layers
from dsin.runtime.errors import BundleError

UNSIGNED, MEANS = (0, 1023), (-(2**15), 2**15 - 1)
RATES = 3
Layers = tuple[IntegerLayer, ...]


def defined(layer: IntegerLayer, x: torch.Tensor, rate: int) -> torch.Tensor:
    """As `run_reference`, faster: x (1, inputs, h, w), float32; products are summed in float64."""
    row, side = min(rate, len(layer.bias) - 1), layer.weight.shape[2]
    weight, bias = torch.from_numpy(layer.weight).double(), torch.from_numpy(layer.bias[row])
    sums = F.conv2d(x.double(), weight, bias.double(), padding=side // 2, groups=layer.groups)
    scaled = sums.float() * torch.from_numpy(layer.multiplier[row])[:, None, None]
    return F.pixel_shuffle(scaled.floor().clamp(layer.low, layer.high), layer.shuffle)


class Defined:
    """A session that computes layers by their definition."""

    provider = "definition"

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def run(self, **inputs: Any) -> dict[str, Any]:
        if "z" in inputs:
            return {"features": self._through(inputs["z"], int(inputs["rate"][0]))}
        both = np.concatenate([inputs["features"], inputs["decoded"]], 1)
        mean, raw = np.split(self._through(both, 0), 2, axis=1)
        return {"mean": mean, "raw": raw}

    keep = run

    def _through(self, x: np.ndarray, rate: int) -> np.ndarray:
        out = torch.from_numpy(x)
        for layer in self._layers:
            out = defined(layer, out, rate)
        return out.numpy()


def test_the_definition_in_pytorch_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    hyper, (step, _) = extreme_network(2, 3, 2, 5, 3)
    for layer in (*hyper, *step):
        x = rng.integers(0, 100, (layer.weight.shape[1] * layer.groups, 4, 8))
        found = defined(layer, torch.from_numpy(x)[None].float(), 1)[0].numpy()
        np.testing.assert_array_equal(found, run_reference(layer, x, 1))


def extreme_layer(
    rng: np.random.Generator, outputs: int, inputs: Sequence[tuple[int, tuple[int, int]]],
    bounds: tuple[int, int], side: int = 1, *, groups: int = 1, shuffle: int = 1, rates: int = 1,
) -> IntegerLayer:  # fmt: skip
    """Sums come as near to 2**24 as can be, and outputs fall on both sides of the bounds."""
    counts = [count for count, _ in inputs]
    low, high = (np.repeat([ends[k] for _, ends in inputs], counts) for k in (0, 1))
    shape = outputs, sum(counts) // groups, side, side
    most = min(EXACT // int(shape[1] * side**2 * max(-low.min(), high.max())), 8191)
    weight = np.where(
        rng.random(shape) < 0.5,
        rng.choice([-most, most], shape),
        rng.integers(-most, most, shape, endpoint=True),
    ).astype(np.int16)
    plain = IntegerLayer(
        weight, np.zeros((rates, outputs), np.int32), np.ones((rates, outputs), np.float32),
        *bounds, groups=groups, shuffle=shuffle,
    )  # fmt: skip
    spare = EXACT - 1 - plain.largest_sum(low, high)
    spread = max(map(abs, bounds)) / (EXACT / 40)
    layer = IntegerLayer(
        weight, rng.integers(-spare, spare, (rates, outputs), endpoint=True).astype(np.int32),
        (spread * rng.uniform(0.3, 3, (rates, outputs))).astype(np.float32), *bounds,
        groups=groups, shuffle=shuffle,
    )  # fmt: skip
    layer.check(low, high)
    return layer


def extreme_network(
    steps: int, latent: int, context: int, width: int, z: int
) -> tuple[Layers, tuple[Layers, ...]]:
    rng = np.random.default_rng(steps + latent)
    inner = [(width, UNSIGNED)]
    hyper = (
        extreme_layer(rng, width, [(z, SIGNED)], UNSIGNED, 3),
        extreme_layer(rng, 4 * width, inner, UNSIGNED, shuffle=2),
        extreme_layer(rng, width, inner, UNSIGNED, 3),
        extreme_layer(rng, 4 * context, inner, UNSIGNED, shuffle=2, rates=RATES),
    )
    return hyper, tuple(
        (
            extreme_layer(rng, width, [(context, UNSIGNED), (latent, CONTEXT)], UNSIGNED),
            extreme_layer(rng, width, inner, UNSIGNED, 5, groups=width),
            extreme_layer(rng, width, inner, UNSIGNED),
            extreme_layer(rng, 2 * latent, inner, MEANS),
        )
        for _ in range(steps)
    )


@pytest.fixture(scope="module")
def tables() -> HyperTables:
    return open_bundle().hyper_tables


def sized(tables: HyperTables, z: int) -> HyperTables:
    """For so many channels of z and three rates."""
    return HyperTables(tables.scales, tables.scale_numbers, tables.z_scales[:RATES, :z].copy())


def assert_same(found: CodedParts, expected: CodedParts) -> None:
    for ours, theirs in zip(found.parts, expected.parts, strict=True):
        np.testing.assert_array_equal(ours.symbols, theirs.symbols)
        np.testing.assert_array_equal(ours.choice, theirs.choice)
    np.testing.assert_array_equal(found.latent.latent, expected.latent.latent)


SIZES = [
    (2, 7, 5, 6, 3, (4, 4)),
    (4, 10, 3, 17, 5, (8, 12)),
    (4, 8, BLOCK, 2 * BLOCK, 8, (4, 20)),
]


@pytest.mark.parametrize(
    ("element", "steps", "latent", "context", "width", "z", "size"),
    [(np.int16, *size) for size in SIZES] + [(np.float32, *size) for size in SIZES[:2]],
)
def test_integers_are_those_of_the_definition(
    tables: HyperTables, element: type[np.generic], steps: int, latent: int, context: int,
    width: int, z: int, size: tuple[int, int],
) -> None:  # fmt: skip
    hyper, layers = extreme_network(steps, latent, context, width, z)
    own = sized(tables, z)
    kernels = HyperCodec(KernelNetwork(hyper, layers, own, element=element), own)
    sessions = SessionNetwork(Defined(hyper), [Defined(step) for step in layers], own)
    truth = HyperCodec(sessions, own)
    rng = np.random.default_rng(7)
    for rate in range(RATES):
        y = (rng.normal(0, 400, (latent, *size)) * rng.integers(0, 2, (latent, 1, 1))).astype("f4")
        whole = rng.integers(-200, 200, (z, size[0] // 4, size[1] // 4)).astype(np.float32)
        expected = truth.quantised(y, whole, rate)
        assert_same(kernels.quantised(y, whole, rate), expected)
        payload = kernels.payload(expected)
        np.testing.assert_array_equal(
            kernels.decode(payload, y.shape, rate), expected.latent.latent
        )
        coded = rng.random((size[0] // 2, size[1] // 2)) < (0.2, 0.6, 0)[rate]
        kept = Kept(expected.latent, coded)
        other = np.ascontiguousarray(y[:, ::-1])
        partly = truth.quantised(other, whole, rate, kept)
        assert_same(kernels.quantised(other, whole, rate, kept), partly)
        found = kernels.decoded(kernels.payload(partly), y.shape, rate, expected.latent)
        np.testing.assert_array_equal(found.latent, partly.latent.latent)
    means = np.abs(np.concatenate([part.symbols for part in expected.parts[1:]]))
    assert means.max() > 100, "nothing of it was extreme"


@pytest.mark.parametrize("threads", [1, 3])
def test_latents_of_two_sizes_in_turn_do_not_mix(tables: HyperTables, threads: int) -> None:
    hyper, layers = extreme_network(2, 7, 5, 6, 3)
    own = sized(tables, 3)
    network = KernelNetwork(hyper, layers, own, threads)
    rng, codec = np.random.default_rng(0), HyperCodec(network, own)
    for size in [(4, 12), (12, 4), (4, 12), (8, 8), (12, 4)]:
        y = rng.normal(0, 3, (7, *size)).astype(np.float32)
        z = rng.integers(-9, 9, (3, size[0] // 4, size[1] // 4)).astype(np.float32)
        fresh = HyperCodec(KernelNetwork(hyper, layers, own), own)
        assert_same(codec.quantised(y, z, 1), fresh.quantised(y, z, 1))


@pytest.mark.parametrize("name", ["edge", "edge-structure"])
def test_shipped_graphs_and_kernels_write_the_same_bytes(name: str) -> None:
    bundle = open_bundle(name)
    tables = bundle.hyper_tables
    kernels = HyperCodec(open_kernels(bundle, tables, None), tables)
    sessions = HyperCodec(open_sessions(bundle, tables, "cpu", None), tables)
    rng = np.random.default_rng(3)
    for rate in (0, len(tables.z_scales) - 1):
        y = (rng.normal(0, 2, (bundle.channels, 8, 12)) * rng.integers(0, 9)).astype(np.float32)
        z = rng.normal(0, 4, (tables.z_scales.shape[1], 2, 3)).astype(np.float32)
        payload, latent = kernels.encode(y, z, rate)
        assert payload == sessions.encode(y, z, rate)[0]
        np.testing.assert_array_equal(sessions.decode(payload, y.shape, rate), latent)


def test_layers_are_read_from_their_graphs(tmp_path: Path) -> None:
    hyper, (first, second) = extreme_network(2, 7, 5, 17, 3)
    graphs = {"hyper": hyper_graph(hyper), "step0": step_graph(first), "step1": step_graph(second)}
    save_graphs(tmp_path, {"entropy.weights": graphs})
    for name, inputs, layers in (("hyper", 3, hyper), ("step0", 12, first), ("step1", 12, second)):
        for found, layer in zip(
            read_layers(tmp_path / f"{name}.onnx", inputs), layers, strict=True
        ):
            for part in ("weight", "bias", "multiplier"):
                np.testing.assert_array_equal(getattr(found, part), getattr(layer, part))
                assert getattr(found, part).dtype == getattr(layer, part).dtype
            for part in ("low", "high", "groups", "shuffle"):
                assert getattr(found, part) == getattr(layer, part)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("fraction", "step0.onnx: layer 0 is damaged: export anew"),
        ("large", "step0.onnx: layer 0 is damaged: export anew"),
        ("empty", "step0.onnx: layer 0 is damaged: export anew"),
        ("operator", "step0.onnx computes something else than integer layers: export anew"),
        ("cut", "cannot read the weights of .*step0.onnx: "),
        ("elsewhere", "cannot read the weights of .*: '../ropy.weights' is not a plain file name"),
        ("no graph", "cannot read the weights of .*step0.onnx: |export it anew"),
        ("bias", "step0.onnx: layer 0 is damaged: export anew"),
    ],
)
def test_other_graphs_are_refused(damage: str, problem: str, tmp_path: Path) -> None:
    _, (first, _) = extreme_network(2, 7, 5, 17, 3)
    graph, path = step_graph(first), tmp_path / "step0.onnx"
    weight = graph.graph.initializer[0]
    assert weight.name == "layer0_weight"
    if damage == "fraction":
        values = numpy_helper.to_array(weight) + np.float32(0.5)
        weight.raw_data = values.tobytes()
    elif damage == "large":
        weight.raw_data = np.full(weight.dims, 2**15, np.float32).tobytes()
    elif damage == "empty":
        weight.CopyFrom(numpy_helper.from_array(np.zeros((0, 12, 1, 1), "f4"), weight.name))
    elif damage == "operator":
        next(node for node in graph.graph.node if node.op_type == "Floor").op_type = "Ceil"
    elif damage == "bias":
        del graph.graph.initializer[1]
    save_graphs(tmp_path, {"entropy.weights": {"step0": graph}})
    if damage == "cut":
        (tmp_path / "entropy.weights").write_bytes(b"")
    elif damage == "elsewhere":
        path.write_bytes(path.read_bytes().replace(b"entropy.weights", b"../ropy.weights"))
    elif damage == "no graph":
        path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=problem):
        read_layers(path, 12)


def test_layers_that_do_not_fit_are_refused(tables: HyperTables) -> None:
    hyper, layers = extreme_network(2, 7, 5, 6, 3)
    _, wider = extreme_network(2, 7, 5, 7, 3)
    own = sized(tables, 3)
    KernelNetwork(hyper, layers, own)
    with pytest.raises(BundleError, match="other layers"):
        KernelNetwork(hyper[:2], layers, own)
    with pytest.raises(BundleError, match="other layers"):
        KernelNetwork(hyper, [step[:3] for step in layers], own)
    with pytest.raises(BundleError, match="different widths"):
        KernelNetwork(hyper, [layers[0], wider[1]], own)
    with pytest.raises(BundleError, match="other inputs"):
        KernelNetwork(hyper, layers, sized(tables, 4))
    with pytest.raises(BundleError, match="outputs beyond 16 bits"):
        KernelNetwork([dataclasses.replace(hyper[0], high=2**15), *hyper[1:]], layers, own)
    with pytest.raises(BundleError, match="outputs beyond 16 bits"):
        KernelNetwork([dataclasses.replace(hyper[0], low=-(2**15) - 1), *hyper[1:]], layers, own)
    with pytest.raises(BundleError, match="other channels"):
        KernelNetwork(hyper, layers, own).begin(np.zeros((3, 1, 1), np.int32), 0, (8, 4, 4), None)
