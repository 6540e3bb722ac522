"""Does a written bundle compute what the PyTorch model computes?

Every graph is run by both on real frames first; then each output is compared by its own rule.
A comparison is true where it passed, and carries its statistics either way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from dsin.export.graphs import DecoderGraph, EncoderGraph, FusionGraph
from dsin.runtime.backends.session import open_session
from dsin.runtime.entropy.context_model import IntegerContextModel, frequencies
from dsin.runtime.errors import ExportError
from dsin.runtime.patch_correlation.definition import (
    Matches,
    cut,
    match,
    rgb_to_lab,
    scores_at,
)
from dsin.training.paper.model import Dsin

Array = npt.NDArray[Any]

SYMBOL_MARGIN = 1e-3
"""A latent this near to the middle between two centres may take either."""
PICTURE_TOLERANCE = 0.02
"""Largest difference of a picture, of 255."""
SCORE_TOLERANCE = 1e-5
"""How far below the best correlation a differing position may score."""
DISTANCE_TOLERANCE = 1e-4
"""The same for squared distances, relative to the patch's own square: they are differences of large
sums in float32, and the prior magnifies them."""


@dataclass(frozen=True)
class Comparison:
    """One output on one frame. `differing` counts values (or patches) that are not equal."""

    output: str
    tolerance: float
    worst: float
    mean: float
    differing: int
    count: int

    def __bool__(self) -> bool:
        # Written so that NaN fails.
        return self.worst <= self.tolerance

    def __str__(self) -> str:
        word = "ok" if self else "DIFFERS"
        return (
            f"{self.output}: {word}, worst {self.worst:.3g} (tolerance {self.tolerance:.3g}), "
            f"mean {self.mean:.3g}, {self.differing} of {self.count} differ"
        )


@dataclass(frozen=True)
class Frames:
    """A pair to verify on: two float32 images (1, 3, H, W) of one size, RGB 0..255."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class _Expected:
    """What PyTorch computes for one pair; pictures are (1, 3, H, W)."""

    z: Array
    symbols: Array
    x_dec: Array
    y_dec: Array
    y_syn: Array
    x_hat: Array


def verify(
    directory: Path, model: Dsin, context: IntegerContextModel, pairs: Iterable[Frames]
) -> list[Comparison]:
    """Compare the graphs in `directory` with the model. Nothing is raised for a difference.

    `model` is in inference mode, with weights rounded as the graphs' are.
    """
    runs = []
    whole = _with_positions(directory / "decoder.onnx")
    try:
        sessions = {
            name: open_session(path)
            for name, path in {
                **{
                    n: directory / f"{n}.onnx"
                    for n in ("encoder", "x_decoder", "fusion", "context")
                },
                "decoder": whole,
            }.items()
        }
        for pair in pairs:
            expected = _expected(model, pair)
            y = pair.y.numpy()
            symbols = expected.symbols
            got = {
                "encoder": sessions["encoder"].run(x=pair.x.numpy()),
                "x_decoder": sessions["x_decoder"].run(symbols=symbols),
                "fusion": sessions["fusion"].run(x_dec=expected.x_dec, y_syn=expected.y_syn),
                "context": sessions["context"].run(symbols=symbols),
                "decoder": sessions["decoder"].run(symbols=symbols, y_dec=expected.y_dec, y=y),
            }
            runs.append((pair, expected, got))
    finally:
        whole.unlink(missing_ok=True)
    return [
        comparison
        for pair, expected, got in runs
        for comparison in _compare(model, context, pair, expected, got)
    ]


def require(comparisons: list[Comparison]) -> None:
    """Raise ExportError naming the outputs that differ, if there are any."""
    failed = [comparison for comparison in comparisons if not comparison]
    if failed:
        names = ", ".join(dict.fromkeys(c.output for c in failed))
        raise ExportError(f"the exported graphs differ from the model in {names}: {failed[0]}")


def _with_positions(decoder: Path) -> Path:
    """A copy of the decoder that also yields what the search found."""
    graph = onnx.load(decoder, load_external_data=False)
    for name, kind in (
        ("row", onnx.TensorProto.INT32),
        ("col", onnx.TensorProto.INT32),
        ("score", onnx.TensorProto.FLOAT),
    ):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    path = decoder.with_name("decoder_with_positions.onnx")
    onnx.save(graph, path)
    return path


@torch.no_grad()
def _expected(model: Dsin, pair: Frames) -> _Expected:
    encoder, decoder = EncoderGraph(model).eval(), DecoderGraph(model).eval()
    fusion = FusionGraph(model).eval()
    symbols = encoder(pair.x)
    x_dec, y_dec = decoder(symbols), decoder(encoder(pair.y))
    found = match(_image(x_dec.numpy()), _image(y_dec.numpy()), **_search(model))
    y_syn = _y_syn(model, pair, found)
    x_hat = fusion(x_dec, torch.from_numpy(y_syn))
    return _Expected(
        z=encoder.latent(pair.x).numpy(),
        symbols=symbols.numpy(),
        x_dec=x_dec.numpy(),
        y_dec=y_dec.numpy(),
        y_syn=y_syn,
        x_hat=x_hat.numpy(),
    )


def _search(model: Dsin) -> dict[str, Any]:
    search = model.preset.search
    return {
        "patch": search.patch,
        "prior": search.prior,
        "measure": search.measure,
        "off_centre": search.off_centre,
    }


def _y_syn(model: Dsin, pair: Frames, found: Matches) -> Array:
    picture = model.preset.search.synthesise(_image(pair.y.numpy()), found)
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None])


def _image(planes: Array) -> Array:
    return np.ascontiguousarray(planes[0].transpose(1, 2, 0))


def _compare(
    model: Dsin,
    context: IntegerContextModel,
    pair: Frames,
    expected: _Expected,
    got: dict[str, dict[str, Array]],
) -> list[Comparison]:
    whole = got["decoder"]
    found = Matches(*(whole[name][0] for name in ("row", "col", "score")))
    centers = model.quantiser.centers.detach().numpy()
    with torch.no_grad():
        fused = FusionGraph(model)(*(torch.from_numpy(whole[n]) for n in ("x_dec", "y_syn")))
    return [
        _symbols(got["encoder"]["symbols"], expected, centers),
        _picture("x_decoder x_dec", got["x_decoder"]["x_dec"], expected.x_dec),
        _picture("fusion x_hat", got["fusion"]["x_hat"], expected.x_hat),
        _frequencies(got["context"]["frequencies"], context, expected.symbols),
        _picture("decoder x_dec", whole["x_dec"], expected.x_dec),
        _positions(model, whole["x_dec"], expected.y_dec, found),
        _picture("decoder y_syn", whole["y_syn"], _y_syn(model, pair, found)),
        _picture("decoder x_hat", whole["x_hat"], fused.numpy()),
    ]


def _statistics(output: str, tolerance: float, difference: Array, count: int) -> Comparison:
    largest = float(difference.max()) if difference.size else 0.0
    mean = float(difference.sum()) / max(count, 1)
    return Comparison(output, tolerance, largest, mean, int((difference != 0).sum()), count)


def _picture(output: str, got: Array, expected: Array) -> Comparison:
    if got.shape != expected.shape:
        return Comparison(output, PICTURE_TOLERANCE, np.inf, np.inf, got.size, got.size)
    return _statistics(output, PICTURE_TOLERANCE, np.abs(got - expected), got.size)


def _symbols(got: Array, expected: _Expected, centers: Array) -> Comparison:
    """The difference of a symbol is how much nearer the other centre would have been."""
    other = got != expected.symbols
    distance = np.abs(expected.z[other][:, None] - centers)
    rows = np.arange(len(distance))
    margin = distance[rows, got[other]] - distance[rows, expected.symbols[other]]
    return _statistics("encoder symbols", SYMBOL_MARGIN, np.abs(margin), got.size)


def _frequencies(got: Array, context: IntegerContextModel, symbols: Array) -> Comparison:
    expected = frequencies(context, symbols[0]).astype(np.int64)
    difference = np.abs(got[0].astype(np.int64) - expected)
    return _statistics("context frequencies", 0.0, difference, got.size)


def _positions(model: Dsin, x_dec: Array, y_dec: Array, found: Matches) -> Comparison:
    """The difference of a position is what its score lacks to the best one's."""
    x, y, options = _image(x_dec), _image(y_dec), _search(model)
    best = match(x, y, **options)
    other = (best.row != found.row) | (best.col != found.col)
    at_best, at_found = (scores_at(x, y, m.row, m.col, **options) for m in (best, found))
    lacking, tolerance = np.abs(at_best - at_found), SCORE_TOLERANCE
    if options["measure"] == "l2":
        tolerance = DISTANCE_TOLERANCE
        energy = (cut(rgb_to_lab(x), options["patch"]) ** 2).sum(1)
        lacking /= np.maximum(energy.reshape(lacking.shape), 1.0)
    return _statistics("decoder positions", tolerance, lacking[other], other.size)
