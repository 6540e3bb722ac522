"""What a phase of the `edge` model leaves in its folder, to go on from and to use.

last.ckpt     to go on from: step, weights, their average, the optimiser's moments, float32
average.pt    the average alone in float16: a checkpoint for everything, and small enough to
              carry away; a run can go on from it too, on another machine, without moments
best.pt       the average at its lowest validation loss
final.pt      the average after the last step; the next phase starts from it
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsin.runtime.errors import CheckpointError
from dsin.training.checkpoint import load_edge_checkpoint, save_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import EdgePreset, preset_to_dict

LAST, AVERAGE, BEST, FINAL = "last.ckpt", "average.pt", "best.pt", "final.pt"
FORMAT = 1
Weights = dict[str, Tensor]


class State(NamedTuple):
    """Where a phase stands. `moments` are the optimiser's, None where they are not known."""

    step: int
    model: Weights
    average: Weights
    moments: dict[Any, Any] | None
    notes: dict[str, Any]


def has_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / LAST).is_file() or (folder / AVERAGE).is_file()


def save_state(folder: Path, state: State, preset: EdgePreset) -> None:
    """Write last.ckpt; it appears whole or not at all."""
    content = {"dsin_training": FORMAT, "preset": preset_to_dict(preset), **state._asdict()}
    partial = folder / (LAST + ".partial")
    torch.save(content, partial)
    os.replace(partial, folder / LAST)


def load_state(folder: Path, preset: EdgePreset) -> State:
    """The newer of last.ckpt and average.pt. Raises CheckpointError for one that is damaged, or
    has other sizes than the preset."""
    states = [
        load(folder / name, preset)
        for name, load in ((LAST, _load_last), (AVERAGE, _load_average))
        if (folder / name).is_file()
    ]
    return max(states, key=lambda state: state.step)


def best_loss(folder: Path) -> float:
    """The lowest validation loss so far, infinite without any."""
    path = folder / BEST
    if not path.is_file():
        return float("inf")
    _, notes = load_edge_checkpoint(path)
    return float(notes["validation"]["val_loss"])


def save_average(folder: Path, average: EdgeDsin, notes: dict[str, Any]) -> None:
    """Write average.pt."""
    save_checkpoint(folder / AVERAGE, average, notes=notes, half=True)


def _load_last(path: Path, preset: EdgePreset) -> State:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for bytes that are not its own
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from error
    if not isinstance(content, dict) or content.get("dsin_training") != FORMAT:
        raise CheckpointError(f"{path} is not the state of a run of edge: choose another folder")
    expected = {name: value.shape for name, value in EdgeDsin(preset).state_dict().items()}
    if {name: value.shape for name, value in content["model"].items()} != expected:
        raise CheckpointError(f"{path} does not have the sizes of preset {preset.name}")
    return State(**{name: content[name] for name in State._fields})


def _load_average(path: Path, preset: EdgePreset) -> State:
    model, notes = load_edge_checkpoint(path, preset=preset)
    weights = model.state_dict()
    start = notes.get("started_from", {})
    return State(int(notes["step"]), weights, weights, None, start)
