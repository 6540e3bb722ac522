"""Weights of the paper's model from the graphs and tables of a bundle of format 1."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsin.calibration.integer_context import LOGIT_STEP, SKIP_BITS, level_step
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.entropy.context_model import IntegerContextModel
from dsin.training.paper.autoencoder import Down, ResidualBlock, Up
from dsin.training.paper.context_model import ContextModel
from dsin.training.paper.model import Dsin

Tensors = Mapping[str, NDArray[Any]]
HIDDEN_STEP = 1 / 64
"""What one unit of the integer activations becomes; any value gives the same logits."""


def restore(model: Dsin, graphs: Mapping[str, Tensors], bundle: Bundle) -> None:
    """Fill the model, in place. Raises KeyError or RuntimeError for other graphs."""
    entropy = bundle.context_model
    stored = {**graphs["encoder"], **graphs["x_decoder"]}
    centers = _centers(graphs["x_decoder"], entropy.symbols_per_alphabet)
    model.quantiser.centers.copy_(_tensor(centers))
    for name, module in model.named_modules():
        if isinstance(module, Down | Up):
            _fill(module.conv, module.norm, stored, f"{name}.conv")
        elif isinstance(module, ResidualBlock):
            _fill(module.conv1, module.norm1, stored, f"{name}.conv1")
            _fill(module.conv2, module.norm2, stored, f"{name}.conv2")
    for number, conv in enumerate([*model.fusion.convs, model.fusion.last]):
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        conv.weight.copy_(_tensor(graphs["fusion"][f"conv{number}.weight"]))
        conv.bias.copy_(_bias(graphs["fusion"], f"conv{number}", conv.bias))
    _restore_context(model.context, centers.astype(np.float64), entropy)


def _centers(decoder: Tensors, count: int) -> NDArray[Any]:
    """The table that symbols index, whatever the exporter called it."""
    found = [
        array
        for name, array in decoder.items()
        if array.shape == (count,) and array.dtype == np.float32 and not name.endswith(".bias")
    ]
    if len(found) != 1:
        raise ValueError(f"its decoder has {len(found)} tables of {count} centres")
    return found[0]


def _fill(
    conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d, stored: Tensors, name: str
) -> None:
    """A convolution, and a batch norm that adds its bias and changes nothing else."""
    conv.weight.copy_(_tensor(stored[f"{name}.weight"]))
    norm.reset_running_stats()
    nn.init.constant_(norm.weight, math.sqrt(1 + norm.eps))
    norm.bias.copy_(_bias(stored, name, norm.bias))


def _bias(stored: Tensors, name: str, like: Tensor) -> Tensor:
    """The exporter drops biases that are zero."""
    bias = stored.get(f"{name}.bias")
    return torch.zeros_like(like) if bias is None else _tensor(bias)


def _restore_context(
    context: ContextModel, centers: NDArray[np.float64], entropy: IntegerContextModel
) -> None:
    summed = HIDDEN_STEP * 2**SKIP_BITS
    steps = (level_step(centers), HIDDEN_STEP, HIDDEN_STEP, summed, LOGIT_STEP)
    layers = (context.conv0, context.conv1, context.conv2, context.logits)
    for i, layer in enumerate(layers):
        unit = np.exp2(-entropy.shifts[i].astype(np.float64)) * steps[i + 1]
        # The rounding half in the bias is no part of the float model.
        half = np.where(entropy.shifts[i] > 0, 0.5, 0.0) * steps[i + 1]
        weight = entropy.weights[i] * unit[:, None, None, None, None] / steps[i]
        layer.weight.copy_(_tensor(weight))
        assert layer.bias is not None
        layer.bias.copy_(_tensor(entropy.biases[i] * unit - half))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
