"""A checkpoint becomes a bundle: graphs, weights, integer entropy model, manifest.

The bundle is written beside its destination, verified there, and renamed into place at the end.
"""

from collections.abc import Sequence
from pathlib import Path

from dsin.export.bundle_files import Precision
from dsin.export.families import FAMILIES
from dsin.export.verify import Comparison
from dsin.runtime.pictures import Image
from dsin.training.checkpoint import load_model


def write_bundle(
    checkpoint: Path,
    out: Path,
    *,
    weights: Precision = "float32",
    calibration_frames: Sequence[Image] | None = None,
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
    model, notes = load_model(checkpoint)
    return FAMILIES[model.preset.family].export_model(
        model,
        out,
        weights=weights,
        calibration_frames=calibration_frames,
        name=name or model.preset.name,
        notes=notes if licence is None else {**notes, "weights_licence": licence},
    )
