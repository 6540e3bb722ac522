"""Checkpoints: weights with the preset that they belong to. Torch files without pickled code."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsin.runtime.codec.bundle import FamilyName
from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import is_file
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin
from dsin.training.presets import AnyPreset, EdgePreset, Preset, preset_from_dict, preset_to_dict

FORMAT = 1


_MODELS: dict[FamilyName, Callable[[Any], Dsin | EdgeDsin]] = {"paper": Dsin, "edge": EdgeDsin}


_NO_LICENCE = ("unspecified", "not stated")
"""What bundles say whose weights' licence nobody knows."""


def model_of(preset: AnyPreset) -> Dsin | EdgeDsin:
    """A new model of a preset, with random weights."""
    return _MODELS[preset.family](preset)


def licence_of(notes: Mapping[str, Any]) -> str | None:
    """The licence of weights by their notes, None if nothing tells.

    What is trained further stays under the licence of the weights that it began with, and of the
    pictures that it saw, where these are known.
    """
    stated = notes.get("weights_licence")
    if stated and stated not in _NO_LICENCE:
        return str(stated)
    origin = notes.get("started_from")
    found = [licence_of(origin)] if isinstance(origin, Mapping) else []
    pictures = notes.get("licences")
    if isinstance(pictures, Mapping):
        found += [f"{source}: {text}" for source, text in pictures.items()]
    return "; ".join(dict.fromkeys(filter(None, found))) or None


def save_checkpoint(
    path: Path, model: Dsin | EdgeDsin, *, notes: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write weights, preset and `notes` (plain data: training data, metrics, licence).

    A licence that the notes do not state is that of what the weights come from (`licence_of`).
    With `half` floating-point weights are rounded to float16, which halves the file; a tensor with
    larger values than float16 has stays as it is. The file appears whole or not at all.
    """
    stated = licence_of(notes or {})
    weights = model.state_dict()
    if half:
        weights = {name: _halved(weight) for name, weight in weights.items()}
    content = {
        "dsin_checkpoint": FORMAT,
        "preset": preset_to_dict(model.preset),
        "notes": {**(notes or {}), **({"weights_licence": stated} if stated else {})},
        "model": weights,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def _halved(weight: Tensor) -> Tensor:
    half = weight.half() if weight.is_floating_point() else weight
    return half if bool(torch.isfinite(half).all()) else weight


def load_model(
    path: Path, *, preset: AnyPreset | None = None
) -> tuple[Dsin | EdgeDsin, dict[str, Any]]:
    """The model in inference mode, and its notes; `preset` replaces the stored one.

    Raises CheckpointError for a file that is missing, foreign, or does not fit the preset.
    """
    if not is_file(path, CheckpointError):
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for bytes that are not its own
        raise CheckpointError(f"{path} is not a checkpoint: {type(error).__name__}") from error
    if not isinstance(content, dict) or content.get("dsin_checkpoint") != FORMAT:
        raise CheckpointError(f"{path} is not a dsin checkpoint of format {FORMAT}")
    wanted = preset or preset_from_dict(content["preset"])
    model = model_of(wanted)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit preset {wanted.name}: {first}") from error
    for name, weight in model.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(f"{path} is of no use: {name} has values that are not finite")
    return model.eval(), content["notes"]


def load_checkpoint(path: Path, *, preset: Preset | None = None) -> tuple[Dsin, dict[str, Any]]:
    """As `load_model`, for the paper's model only."""
    model, notes = load_model(path, preset=preset)
    if not isinstance(model, Dsin):
        raise CheckpointError(f"{path} is of the edge model, not of the paper's")
    return model, notes


def load_edge_checkpoint(
    path: Path, *, preset: EdgePreset | None = None
) -> tuple[EdgeDsin, dict[str, Any]]:
    """As `load_model`, for the `edge` model only."""
    model, notes = load_model(path, preset=preset)
    if not isinstance(model, EdgeDsin):
        raise CheckpointError(f"{path} is of the paper's model, not of edge")
    return model, notes
