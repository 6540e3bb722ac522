"""Latents through bytes, with the exported integer graphs in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import SMALL
from test_integer_entropy import integer, latents, model

from dsin.calibration.integer_entropy import IntegerEntropy, integer_bits
from dsin.export.edge.integer_graph import hyper_graph, step_graph
from dsin.runtime.backends.session import open_session
from dsin.runtime.entropy.hyper_codec import CodedLatent, HyperCodec, Kept, step_positions
from dsin.runtime.entropy.hyper_kernels import put_symbols
from dsin.runtime.entropy.kernel_network import KernelNetwork
from dsin.runtime.entropy.session_network import SessionNetwork
from dsin.runtime.errors import PacketError
from dsin.training.edge import entropy as edge_entropy
from dsin.training.edge.entropy import EntropyModel

__all__ = ["integer", "model"]


@pytest.fixture(scope="module", params=["sessions", "kernels"])
def codec(
    integer: IntegerEntropy, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> HyperCodec:
    if request.param == "kernels":
        network = KernelNetwork(integer.hyper, integer.steps, integer.tables)
        return HyperCodec(network, integer.tables)
    folder = tmp_path_factory.mktemp("graphs")
    graphs = {"hyper": hyper_graph(integer.hyper)}
    graphs |= {f"step{n}": step_graph(layers) for n, layers in enumerate(integer.steps)}
    paths: dict[str, Path] = {}
    for name, graph in graphs.items():
        paths[name] = folder / f"{name}.onnx"
        onnx.save(graph, paths[name])
    hyper, *steps = (open_session(path) for path in paths.values())
    return HyperCodec(SessionNetwork(hyper, steps, integer.tables), integer.tables)


def sample(model: EntropyModel, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """y, z and rate."""
    y, rate = latents(3, seed)[seed % 3]
    with torch.no_grad():
        z = model.encoder(y)
    return y[0].numpy(), z[0].numpy(), int(rate)


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_out_is_what_the_encoder_said(
    model: EntropyModel, codec: HyperCodec, seed: int
) -> None:
    y, z, rate = sample(model, seed)
    payload, y_hat = codec.encode(y, z, rate)
    np.testing.assert_array_equal(codec.decode(payload, y.shape, rate), y_hat)
    assert np.abs(y_hat - y).max() <= 0.5 + 1 / 64


def test_the_payload_costs_what_the_integer_model_says(
    model: EntropyModel, integer: IntegerEntropy, codec: HyperCodec
) -> None:
    y, z, rate = sample(model, 4)
    bits = 8 * len(codec.encode(y, z, rate)[0])
    expected = integer_bits(model, integer, torch.from_numpy(y)[None], rate)
    assert bits == pytest.approx(expected, rel=1e-3, abs=60)


def test_values_beyond_any_table_are_coded_as_well(model: EntropyModel, codec: HyperCodec) -> None:
    y, z, rate = sample(model, 5)
    y[0, :2], z[1, 0, 0] = 3e3, -700
    payload, y_hat = codec.encode(y, z, rate)
    np.testing.assert_array_equal(codec.decode(payload, y.shape, rate), y_hat)
    assert np.abs(y_hat - y).max() <= 0.6


def test_damaged_payloads_are_refused(model: EntropyModel, codec: HyperCodec) -> None:
    y, z, rate = sample(model, 6)
    payload, _ = codec.encode(y, z, rate)
    for spoiled in (payload[:-1], payload + b"\0", payload[:7], b"", payload[::-1]):
        with pytest.raises(PacketError):
            codec.decode(spoiled, y.shape, rate)
    with pytest.raises(PacketError):
        codec.decode(payload, (y.shape[0], y.shape[1] + 4, y.shape[2]), rate)
    with pytest.raises(PacketError, match="size fields"):
        codec.decode(payload, (y.shape[0], y.shape[1] + 1, y.shape[2]), rate)
    with pytest.raises(PacketError, match="rate 3"):
        codec.decode(payload, y.shape, SMALL.rates)


class TestWithAReference:
    """Parts of a latent are another one's."""

    @pytest.fixture
    def reference(self, model: EntropyModel, codec: HyperCodec) -> CodedLatent:
        y, z, rate = sample(model, 7)
        y[1, :, :], z[0, 0, 0] = 900, 400  # beyond all tables and what the steps are given
        return codec.quantised(y, z, rate).latent

    @pytest.mark.parametrize("coded", ["none", "all", "some"])
    def test_what_comes_out_is_what_the_encoder_said(
        self, model: EntropyModel, codec: HyperCodec, reference: CodedLatent, coded: str
    ) -> None:
        y, z, rate = sample(model, 7)
        y = y[:, ::-1].copy()
        shape = y.shape[1] // 2, y.shape[2] // 2
        share = {"none": 0.0, "all": 1.0, "some": 0.3}[coded]
        kept = Kept(reference, np.random.default_rng(1).random(shape) < share)
        parts = codec.quantised(y, z, rate, kept)
        payload = codec.payload(parts)
        found = codec.decoded(payload, y.shape, rate, reference)
        for ours, theirs in zip(found, parts.latent, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        whole = kept.coded.repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(found.latent[:, ~whole], reference.latent[:, ~whole])
        assert np.abs(found.latent - y)[:, whole].max(initial=0) <= 0.5 + 1 / 64
        np.testing.assert_array_equal(found.z[:, ~kept.cells], reference.z[:, ~kept.cells])
        assert 8 * len(payload) == pytest.approx(
            codec.block_bits(parts).sum(), abs=70 + kept.coded.size
        )
        assert np.all(codec.block_bits(parts)[~kept.cells.repeat(2, 0).repeat(2, 1)] == 0)

    def test_all_of_it_coded_is_the_latent_without_a_reference(
        self, model: EntropyModel, codec: HyperCodec, reference: CodedLatent
    ) -> None:
        y, z, rate = sample(model, 8)
        every = np.ones((y.shape[1] // 2, y.shape[2] // 2), np.bool_)
        alone = codec.quantised(y, z, rate)
        with_it = codec.quantised(y, z, rate, Kept(reference, every))
        np.testing.assert_array_equal(with_it.latent.latent, alone.latent.latent)
        assert len(codec.payload(with_it)) <= len(codec.payload(alone)) + 4

    def test_none_of_it_coded_costs_nothing(
        self, model: EntropyModel, codec: HyperCodec, reference: CodedLatent
    ) -> None:
        y, z, rate = sample(model, 7)
        none = np.zeros((y.shape[1] // 2, y.shape[2] // 2), np.bool_)
        assert len(codec.payload(codec.quantised(y, z, rate, Kept(reference, none)))) <= 8

    def test_damaged_payloads_and_other_sizes_are_refused(
        self, model: EntropyModel, codec: HyperCodec, reference: CodedLatent
    ) -> None:
        y, z, rate = sample(model, 7)
        some = np.random.default_rng(2).random((y.shape[1] // 2, y.shape[2] // 2)) < 0.5
        payload = codec.payload(codec.quantised(y, z, rate, Kept(reference, some)))
        for spoiled in (payload[:-1], payload + b"\0", payload[:7], b"", payload[::-1]):
            with pytest.raises(PacketError):
                codec.decode(spoiled, y.shape, rate, reference)
        with pytest.raises(PacketError, match="another size"):
            codec.decode(payload, (y.shape[0], y.shape[1] + 4, y.shape[2]), rate, reference)


@pytest.mark.parametrize("channels", [8, 10])
def test_both_sides_take_turns_as_in_training(channels: int) -> None:
    shape = (channels, 8, 12)
    plane = shape[1] * shape[2]
    for steps in (2, 4):
        found, _ = step_positions(shape, steps, None)
        for number, mask in enumerate(edge_entropy.turns(torch.zeros(1, *shape), steps)):
            places = np.flatnonzero(mask[0].numpy())
            latent, context = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            symbols = np.arange(len(places), dtype=np.int32) % 60 + 1
            put_symbols(
                symbols, np.zeros_like(symbols), found[number], (0, found[number].shape[1]),
                channels, latent.ravel(), context.ravel(), (plane, 1, 0),
            )  # fmt: skip
            np.testing.assert_array_equal(np.flatnonzero(latent), places)
            np.testing.assert_array_equal(latent.ravel()[places], symbols)
            np.testing.assert_array_equal(context, 16 * latent)
