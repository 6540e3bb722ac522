"""Exact probabilities: one definition, three engines, the same bytes; and what it costs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.calibration.integer_context import float_bits, quantise_context
from dsin.export.paper.context_graph import context_graph
from dsin.runtime.entropy import rans
from dsin.runtime.entropy.context_model import (
    IntegerContextModel,
    causal_mask,
    cross_entropy_bits,
    decode_symbols,
    encode_symbols,
    encode_with_frequencies,
    frequencies,
    frequencies_reference,
    wavefront_order,
)
from dsin.runtime.errors import BundleError, ExportError, PacketError
from dsin.training.paper.context_model import ContextModel
from dsin.training.paper.model import Dsin
from dsin.training.presets import ContextConfig

Symbols = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[Any]]


def random_model(seed: int, *, features: int = 24, centers: int = 6) -> IntegerContextModel:
    """Tables of no meaning whose activations use their whole range."""
    rng = np.random.default_rng(seed)
    widths = [1, features, features, features, centers]
    arrays: Arrays = {
        "bounds": np.array([(0, 255), (0, 255), (-128, 127), (-900, 900)], np.int32),
        "skip_shift": np.full(features, 8, np.int32),
        "levels": rng.permutation(np.linspace(-127, 120, centers)).astype(np.int8),
        "exponentials": np.rint(2**15 * np.exp(-np.arange(700) / 64)).astype(np.int32),
    }
    for i, shift in enumerate((6, 10, 9, 8)):
        weight = rng.integers(-60, 61, (widths[i + 1], widths[i], 2, 3, 3)).astype(np.int8)
        weight[:, :, ~causal_mask(first=i == 0)] = 0
        arrays[f"weight{i}"] = weight
        arrays[f"bias{i}"] = rng.integers(-4000, 4000, widths[i + 1]).astype(np.int32)
        arrays[f"shift{i}"] = rng.integers(shift, shift + 3, widths[i + 1]).astype(np.int32)
    return IntegerContextModel.from_arrays(arrays)


def random_symbols(seed: int, shape: tuple[int, int, int], centers: int = 6) -> Symbols:
    return np.random.default_rng(seed).integers(0, centers, shape).astype(np.uint8)


def by_onnxruntime(model: IntegerContextModel, symbols: Symbols, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    graph = context_graph(model).SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"symbols": symbols[None]})[0][0]


shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40))


@given(st.integers(0, 2**32 - 1), shapes, st.integers(1, 7), st.integers(2, 9))
@settings(deadline=None, max_examples=40)
def test_round_trip(seed: int, shape: tuple[int, int, int], features: int, centers: int) -> None:
    model = random_model(seed, features=features, centers=centers)
    symbols = random_symbols(seed, shape, centers)
    reference = frequencies_reference(model, symbols)
    assert np.array_equal(frequencies(model, symbols), reference)
    assert reference.min() >= 1
    assert np.all(reference.sum(axis=-1, dtype=np.int64) == rans.TOTAL)
    payload = encode_symbols(model, symbols)
    assert np.array_equal(decode_symbols(model, payload, shape), symbols)
    assert len(payload) <= cross_entropy_bits(model, symbols) / 8 * 1.01 + 16


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 80), (8, 10, 12)])
def test_every_engine_yields_the_same_bytes(shape: tuple[int, int, int]) -> None:
    model = random_model(3)
    symbols = random_symbols(4, shape)
    reference = encode_with_frequencies(symbols, frequencies_reference(model, symbols))
    assert encode_symbols(model, symbols) == reference
    for threads in (1, 2):
        values = by_onnxruntime(model, symbols, threads)
        assert values.dtype == np.int32
        assert encode_with_frequencies(symbols, values.astype(np.uint16)) == reference


def test_the_bytes_of_a_small_latent_never_change() -> None:
    model = random_model(1, features=3, centers=4)
    symbols = (np.arange(24) % 4).astype(np.uint8).reshape(2, 3, 4)
    assert model.digest().hex()[:16] == "4ea967f8db9cb687"
    assert encode_symbols(model, symbols).hex() == "c910461b4999a71e07f7"


def test_symbols_of_a_front_are_independent() -> None:
    model, symbols = random_model(2), random_symbols(2, (4, 5, 9))
    before = frequencies(model, symbols)
    c, h, w = 1, 2, 5
    changed = symbols.copy()
    changed[c, h, w] = (changed[c, h, w] + 1) % 6
    moved = np.argwhere(np.any(frequencies(model, changed) != before, axis=-1))
    assert len(moved) > 0
    assert all(x + 2 * y + 4 * z > w + 2 * h + 4 * c for z, y, x in moved)


def test_coding_order_is_by_front_then_channel_then_row() -> None:
    shape = (2, 2, 5)
    places = [tuple(map(int, np.unravel_index(i, shape))) for i in wavefront_order(shape)]
    assert places[:6] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 0, 3), (0, 1, 1)]
    assert sorted(places, key=lambda p: (p[2] + 2 * p[1] + 4 * p[0], p[0], p[1])) == places


def test_cut_payloads_are_refused() -> None:
    model, shape = random_model(6, features=3), (2, 3, 8)
    payload = encode_symbols(model, random_symbols(6, shape))
    for data in (*(payload[:n] for n in range(len(payload))), payload + b"\0"):
        with pytest.raises(PacketError):
            decode_symbols(model, data, shape)


def test_a_flipped_bit_is_refused_or_makes_another_latent() -> None:
    """The coder is no checksum (the packet has one), but nothing decodes to the same symbols."""
    model, shape = random_model(6, features=3), (2, 3, 8)
    payload = encode_symbols(model, random_symbols(6, shape))
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = decode_symbols(model, bytes(flipped), shape)
        except PacketError:
            continue
        assert encode_symbols(model, other) == flipped


@given(st.binary(max_size=40), shapes)
@settings(deadline=None, max_examples=40)
def test_foreign_bytes_never_crash(payload: bytes, shape: tuple[int, int, int]) -> None:
    try:
        symbols = decode_symbols(random_model(6, features=3), payload, shape)
    except PacketError:
        return
    assert encode_symbols(random_model(6, features=3), symbols) == payload


def test_a_payload_of_another_shape_or_model_is_refused() -> None:
    model, symbols = random_model(7), random_symbols(7, (2, 4, 6))
    payload = encode_symbols(model, symbols)
    with pytest.raises(PacketError):
        decode_symbols(model, payload, (2, 4, 7))
    with pytest.raises(PacketError):
        decode_symbols(random_model(8), payload, (2, 4, 6))
    with pytest.raises(PacketError, match=r"a latent of \(2, 0, 6\) is empty: check the packet"):
        decode_symbols(model, payload, (2, 0, 6))


def test_symbols_outside_the_alphabet_are_refused() -> None:
    with pytest.raises(ValueError, match="below 6"):
        encode_symbols(random_model(0), np.full((1, 2, 2), 6, np.uint8))


@pytest.mark.parametrize("shape", [(4, 6), (2, 0, 6)])
def test_symbols_that_are_no_volume_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected symbols \(C, h, w\)"):
        encode_symbols(random_model(0), np.zeros(shape, np.uint8))


def test_tables_survive_a_round_trip() -> None:
    model = random_model(9)
    again = IntegerContextModel.from_arrays(model.to_arrays())
    assert again.digest() == model.digest()
    assert random_model(10).digest() != model.digest()
    symbols = np.full((1, 2, 2), 3, np.uint8)
    payload = encode_symbols(model, symbols)
    assert np.array_equal(decode_symbols(again, payload, (1, 2, 2)), symbols)


def _without(name: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(name)


def _set(name: str, value: npt.NDArray[Any]) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: value})


def _put(name: str, index: Any, value: int) -> Callable[[Arrays], object]:
    return lambda arrays: arrays[name].__setitem__(index, value)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (_without("weight2"), "'weight2' is missing"),
        (_set("weight1", np.zeros((24, 24, 2, 3, 3), np.float32)), "'weight1'"),
        (_set("weight1", np.zeros((24, 23, 2, 3, 3), np.int8)), "'weight1' has shape"),
        (_set("bias3", np.zeros(5, np.int32)), "'bias3'"),
        (_set("levels", np.zeros((2, 3), np.int8)), "'levels'"),
        (_set("levels", np.zeros(1, np.int8)), "out of range"),
        (_set("exponentials", np.zeros(0, np.int32)), "'exponentials'"),
        (_set("bounds", np.zeros((3, 2), np.int32)), "'bounds'"),
        (_put("weight0", (0, 0, 1, 1, 1), 1), "looks ahead"),
        (_put("weight3", (0, 0, 1, 2, 0), 1), "looks ahead"),
        (_put("bias1", 0, 2**24), "2\\*\\*24"),
        (_put("bias1", 0, -(2**31)), "2\\*\\*24"),
        (_put("skip_shift", 0, 17), "2\\*\\*24"),
        (_put("skip_shift", 0, -1), "shifts"),
        (_put("shift2", 3, 32), "shifts"),
        (_put("bounds", (0, 1), 256), "8 bits"),
        (_put("bounds", (2, 0), -(2**31)), "8 bits"),
        (_put("bounds", (1, 0), 300), "8 bits"),
        (_put("bounds", (3, 1), 2**15), "range"),
        (_put("exponentials", 0, 0), "starts with 0"),
        (_put("exponentials", 5, -1), "within"),
        (_put("exponentials", 5, 2**16), "within"),
    ],
)
def test_hostile_tables_are_refused(alter: Callable[[Arrays], object], message: str) -> None:
    arrays = {name: array.copy() for name, array in random_model(0).to_arrays().items()}
    alter(arrays)
    with pytest.raises(BundleError, match=message):
        IntegerContextModel.from_arrays(arrays)


def test_sums_stay_below_the_bound_that_is_checked() -> None:
    """Weights at their limit on a wide model: refused although every entry is in range."""
    arrays = random_model(0, features=48).to_arrays()
    arrays["weight1"] = np.where(arrays["weight1"] != 0, 127, 0).astype(np.int8)
    with pytest.raises(BundleError, match="float32 rounds"):
        IntegerContextModel.from_arrays(arrays)


def small_context(*, relu_on_logits: bool) -> tuple[ContextModel, torch.Tensor]:
    """Random weights with logits that are decided, but not absurdly so."""
    torch.manual_seed(3)
    context = ContextModel(ContextConfig(), 6, relu_on_logits=relu_on_logits)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.mul_(1.6).add_(0.03 * torch.randn_like(parameter))
    return context, torch.tensor([-0.1, 1.9, -1.7, 0.8, -0.9, 0.4])


@pytest.mark.parametrize("relu_on_logits", [False, True])
def test_the_integer_model_keeps_the_float_models_rate(relu_on_logits: bool) -> None:
    context, centers = small_context(relu_on_logits=relu_on_logits)
    model = quantise_context(context, centers, [random_symbols(1, (8, 10, 16))])
    held_out = random_symbols(2, (8, 10, 16))
    bits = float_bits(context, centers, held_out)
    assert cross_entropy_bits(model, held_out) == pytest.approx(bits, rel=0.02)
    assert (int(model.bounds[3, 0]) == 0) is relu_on_logits


def test_the_integer_model_keeps_the_originals_rate(
    original: Dsin, golden: Callable[[str], dict[str, npt.NDArray[Any]]]
) -> None:
    case = golden("case_a")
    symbols = case["symbols"][0].astype(np.uint8)
    centers = original.quantiser.centers.detach()
    assert float_bits(original.context, centers, symbols) == pytest.approx(
        float(case["bitcost"].sum()), rel=1e-4
    )
    model = quantise_context(original.context, centers, [symbols])
    bits = cross_entropy_bits(model, symbols)
    assert bits == pytest.approx(float(case["bitcost"].sum()), rel=0.02)
    assert len(encode_symbols(model, symbols)) <= bits / 8 * 1.01 + 16


def test_calibration_refuses_what_it_cannot_make_exact() -> None:
    context, centers = small_context(relu_on_logits=False)
    with pytest.raises(ExportError, match="symbols of a few frames"):
        quantise_context(context, centers, [])
    with torch.no_grad():
        context.conv1.weight[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        quantise_context(context, centers, [random_symbols(1, (2, 3, 4))])


def test_onnx_graph_is_plain_and_checked() -> None:
    model = random_model(0)
    kinds = {node.op_type for node in context_graph(replace(model)).graph.node}
    assert kinds >= {"Conv", "Round", "Floor", "Clip"}
    assert all(node.domain == "" for node in context_graph(model).graph.node)
