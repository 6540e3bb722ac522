"""A checkpoint becomes a bundle: graphs, weights, integer context model, manifest.

    checkpoint ─► fold batch norm ─► (round to float16) ─┬─► encoder, x_decoder, fusion ─► decoder
                                                         └─► symbols of frames ─► integer context

The bundle is written beside its destination, verified there, and renamed into place at the end.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch

from dsin.calibration.integer_context import quantise_context
from dsin.export import graphs
from dsin.export.context_graph import context_graph
from dsin.export.verify import Comparison, Frames, require, verify
from dsin.export.weights import WeightsFile, store_as_half
from dsin.runtime.context_model import IntegerContextModel
from dsin.runtime.errors import ExportError, FrameError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.training.autoencoder import STRIDE
from dsin.training.checkpoint import load_checkpoint
from dsin.training.model import Dsin
from dsin.training.presets import Preset, preset_to_dict

Precision = Literal["float32", "float16"]
Frame = npt.NDArray[np.uint8]

FORMAT = 1
MOST_CENTERS = 255
VERIFIED_PAIRS = 2
"""Pairs of frames on which the graphs are compared with the model."""
VERIFIED_SIZE = (240, 624)
"""At most this much of their middle: the portable search costs the square of the area."""


def write_bundle(
    checkpoint: Path,
    out: Path,
    *,
    weights: Precision = "float32",
    calibration_frames: Sequence[Frame] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> list[Comparison]:
    """Export a checkpoint to the bundle directory `out`; returns the comparisons it passed.

    `calibration_frames` are RGB H×W×3 uint8; neighbours in the list serve as pairs. They set the
    scales of the integer context model, and the graphs are verified on the first of them. Without
    any, frames of the synthetic rig are used. `weights` is the storage of the convolution kernels;
    arithmetic is float32 in both. `licence` of the weights replaces what the checkpoint says.
    An existing bundle at `out` is replaced.

    Raises CheckpointError for an unreadable checkpoint, FrameError for unfit frames, ExportError
    where a graph differs from the model or `out` is in the way; then nothing is left behind.
    """
    model, notes = load_checkpoint(checkpoint)
    return export_model(
        model,
        out,
        weights=weights,
        calibration_frames=calibration_frames,
        name=name or model.preset.name,
        notes=notes if licence is None else {**notes, "weights_licence": licence},
    )


def export_model(
    model: Dsin,
    out: Path,
    *,
    weights: Precision,
    calibration_frames: Sequence[Frame] | None,
    name: str,
    notes: Mapping[str, Any],
) -> list[Comparison]:
    """As `write_bundle`, for a model in memory; `notes` go to the manifest."""
    _check_exportable(model.preset)
    _check_destination(out)
    folded = graphs.fold(model)
    if weights == "float16":
        graphs.round_to_half(folded)
    multiple = _frame_multiple(model.preset)
    frames = [_prepare(frame, multiple) for frame in calibration_frames or _synthetic_frames()]
    context = _context(folded, frames)
    reference = folded if weights == "float16" else model
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        write_graphs(folded, context, partial, half=weights == "float16")
        comparisons = verify(partial, reference, context, _pairs(frames, multiple))
        require(comparisons)
        manifest = _manifest(folded, context, partial, name, notes, comparisons)
        write_json(partial / MANIFEST, manifest)
        _replace(out, partial)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return comparisons


def write_graphs(
    folded: Dsin, context: IntegerContextModel, directory: Path, *, half: bool
) -> None:
    """Write all graphs, weights and tables of a folded model into an existing directory."""
    encoder = graphs.encoder_graph(folded)
    x_decoder, fusion = graphs.x_decoder_graph(folded), graphs.fusion_graph(folded)
    if half:
        for graph in (encoder, x_decoder, fusion):
            store_as_half(graph)
    decoder = graphs.decoder_graph(x_decoder, fusion, folded.preset)
    shared = WeightsFile("decoder.weights")
    for weights, parts in (
        (WeightsFile("encoder.weights"), {"encoder": encoder}),
        (shared, {"x_decoder": x_decoder, "fusion": fusion, "decoder": decoder}),
    ):
        for name, graph in parts.items():
            weights.take(graph)
            onnx.save(graph, directory / f"{name}.onnx")
        weights.write(directory)
    onnx.save(context_graph(context), directory / "context.onnx")
    with (directory / "context.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **context.to_arrays())


def _check_exportable(preset: Preset) -> None:
    if preset.autoencoder.centers > MOST_CENTERS:
        raise ExportError(f"symbols are 8-bit: use at most {MOST_CENTERS} centers")
    if preset.search.measure == "l2" and preset.quirks.l2_prefers_far:
        raise ExportError("quirk l2_prefers_far is for training only: switch it off to export")


def _check_destination(out: Path) -> None:
    if out.exists() and not (out / MANIFEST).is_file():
        raise ExportError(f"{out} exists and is not a bundle: choose another directory")


def _replace(out: Path, new: Path) -> None:
    """Put the directory `new` at `out`, whose old bundle goes only then."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _frame_multiple(preset: Preset) -> tuple[int, int]:
    ph, pw = preset.search.patch
    return math.lcm(STRIDE, ph), math.lcm(STRIDE, pw)


def _synthetic_frames() -> list[Frame]:
    from dsin.runtime.synthetic_rig import SyntheticRig

    return [
        picture
        for frame in SyntheticRig(width=624, height=200, frames=3)
        for picture in (frame.left, frame.right)
    ]


def _prepare(frame: Frame, multiple: tuple[int, int]) -> torch.Tensor:
    """The middle of a frame, cropped to whole multiples: float32 (1, 3, H, W)."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError("a calibration frame is not RGB of 8 bits: give colour images")
    height, width = (size // step * step for size, step in zip(frame.shape, multiple, strict=False))
    if not height or not width:
        raise FrameError(f"calibration frames must be at least {multiple[1]}x{multiple[0]}")
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    middle = frame[top : top + height, left : left + width].transpose(2, 0, 1)
    return torch.from_numpy(middle[None].astype(np.float32))


def _middle(frame: torch.Tensor, multiple: tuple[int, int]) -> torch.Tensor:
    height, width = (
        min(size, most // step * step)
        for size, most, step in zip(frame.shape[2:], VERIFIED_SIZE, multiple, strict=True)
    )
    top, left = (frame.shape[2] - height) // 2, (frame.shape[3] - width) // 2
    return frame[:, :, top : top + height, left : left + width].contiguous()


def _pairs(frames: Sequence[torch.Tensor], multiple: tuple[int, int]) -> list[Frames]:
    """Neighbours of one size; a frame without a partner is paired with its shifted self."""
    pairs = []
    some = [_middle(frame, multiple) for frame in frames[: 2 * VERIFIED_PAIRS]]
    for first in range(0, len(some), 2):
        x = some[first]
        y = some[first + 1] if first + 1 < len(some) else x
        pairs.append(Frames(x, y if y.shape == x.shape and y is not x else x.roll(5, 3)))
    return pairs


@torch.no_grad()
def _context(folded: Dsin, frames: Sequence[torch.Tensor]) -> IntegerContextModel:
    encoder = graphs.EncoderGraph(folded).eval()
    symbols = [encoder(frame)[0].numpy() for frame in frames]
    return quantise_context(folded.context, folded.quantiser.centers.detach(), symbols)


def _model_id(folded: Dsin) -> str:
    """sha256 over names, shapes and little-endian float32 values of all weights, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(folded.state_dict().items()):
        array = tensor.numpy().astype("<f4")
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _manifest(
    folded: Dsin,
    context: IntegerContextModel,
    directory: Path,
    name: str,
    notes: Mapping[str, Any],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    preset = folded.preset
    training = {key: value for key, value in notes.items() if key != "weights_licence"}
    training["export"] = [asdict(comparison) for comparison in comparisons]
    manifest = {
        "format": FORMAT,
        "model": name,
        "preset": preset_to_dict(preset),
        "channels": preset.autoencoder.channels,
        "centers": preset.autoencoder.centers,
        "stride": STRIDE,
        "frame_multiple": list(_frame_multiple(preset)),
        "search": {
            "patch": list(preset.search.patch),
            "measure": preset.search.measure,
            "prior": preset.search.prior,
            "stretched_patches": preset.quirks.stretched_patches,
            "off_centre_prior": preset.quirks.off_centre_prior,
        },
        "truncate_to_uint8": preset.quirks.truncate_to_uint8,
        "model_id": _model_id(folded),
        "rate_points": [{"index": 0, "target_bpp": preset.loss.rate_target}],
        "default_rate": 0,
        "graphs": {
            n: f"{n}.onnx" for n in ("encoder", "decoder", "x_decoder", "fusion", "context")
        },
        "context_tables": "context.npz",
        "files": {
            path.name: {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in sorted(directory.iterdir())
        },
        "training": training,
        "weights_licence": str(notes.get("weights_licence", "unspecified")),
    }
    try:
        json.dumps(manifest, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the checkpoint's notes do not fit into JSON: {error}") from error
    return manifest
