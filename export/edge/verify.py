"""Does a written `edge` bundle compute what the PyTorch model computes? All run, then compared."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dsin.calibration.integer_entropy import IntegerEntropy, run_layers
from dsin.export.edge.graphs import side_inputs
from dsin.export.verify import PICTURE_TOLERANCE, Comparison
from dsin.runtime.backends.session import open_session
from dsin.runtime.entropy.hyper_kernels import CONTEXT, SIGNED
from dsin.training.edge.model import EdgeDsin

Array = npt.NDArray[Any]
LATENT_TOLERANCE = 1e-3
"""Largest difference of a latent, relative to the largest value."""


class _Run(NamedTuple):
    """Inputs of every graph and what PyTorch makes of them, by graph."""

    inputs: dict[str, dict[str, Array]]
    outputs: dict[str, dict[str, Array]]


def verify_edge(
    directory: Path,
    model: EdgeDsin,
    integer: IntegerEntropy,
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> list[Comparison]:
    """Compare every graph in `directory` with the model, each pair at another rate.

    Nothing is raised for a difference. `model` is in inference mode, with weights rounded as the
    graphs' are; pairs are float32 (1, 3, H, W) with sides that are multiples of 64.
    """
    rates = model.preset.codec.rates
    runs = [
        _expected(model, integer, *pair, rate=(1 + 3 * number) % rates)
        for number, pair in enumerate(pairs)
    ]
    comparisons = []
    for name in runs[0].inputs:
        session = open_session(directory / f"{name}.onnx")
        for run in runs:
            got = session.run(**run.inputs[name])
            for output, expected in run.outputs[name].items():
                comparisons.append(_compare(name, output, got[output], expected))
    return comparisons


def _compare(graph: str, output: str, got: Array, expected: Array) -> Comparison:
    if got.shape != expected.shape:
        return Comparison(f"{graph} {output}", 0, np.inf, np.inf, got.size, got.size)
    difference = np.abs(got.astype(np.float64) - expected)
    if graph.startswith(("hyper", "step")):
        tolerance = 0.0
    elif output in ("x_dec", "x_hat"):
        tolerance = PICTURE_TOLERANCE
    else:
        tolerance = LATENT_TOLERANCE * float(np.abs(expected).max())
    return Comparison(
        output=f"{graph} {output}",
        tolerance=tolerance,
        worst=float(difference.max()),
        mean=float(difference.mean()),
        differing=int((difference != 0).sum()),
        count=difference.size,
    )


@torch.no_grad()
def _expected(
    model: EdgeDsin, integer: IntegerEntropy, x: torch.Tensor, y: torch.Tensor, *, rate: int
) -> _Run:
    index = torch.tensor([rate])
    latent = model.encoder(x, index)
    z = model.entropy.encoder(latent)
    y_hat = model.entropy(latent, index).y_hat
    x_dec, features = model.decoder(y_hat, index)
    x_dec = x_dec.clamp(0, 255)
    side = model.side_input(x_dec, y, index)
    x_hat = model.fusion(x_dec, features, *side, index).clamp(0, 255)
    whole = z.round().clamp(*SIGNED)
    hyper = run_layers(integer.hyper, whole, rate)
    context = (y_hat * 16).floor().clamp(*CONTEXT)
    means = [run_layers(layers, torch.cat([hyper, context], 1), 0) for layers in integer.steps]
    number = {"rate": np.array([rate], np.int64)}
    known = {"features": hyper.numpy(), "decoded": context.numpy()}
    names = side_inputs(model.preset.search.flow)
    seen = {name: part.numpy() for name, part in zip(names, side, strict=True)}
    inputs: dict[str, dict[str, Array]] = {
        "encoder": {"x": x.numpy(), **number},
        "x_decoder": {"y_hat": y_hat.numpy(), **number},
        "fusion": {
            "x_dec": x_dec.numpy(), "features": features.numpy(), **seen, **number,
        },
        "hyper": {"z": whole.numpy(), **number},
        **{f"step{n}": known for n in range(len(means))},
    }  # fmt: skip
    outputs: dict[str, dict[str, Array]] = {
        "encoder": {"y": latent.numpy(), "z": z.numpy()},
        "x_decoder": {"x_dec": x_dec.numpy(), "features": features.numpy()},
        "fusion": {"x_hat": x_hat.numpy()},
        "hyper": {"features": hyper.numpy()},
    }
    for n, predicted in enumerate(means):
        mean, raw = predicted.chunk(2, 1)
        outputs[f"step{n}"] = {"mean": mean.numpy(), "raw": raw.numpy()}
    return _Run(inputs, outputs)
