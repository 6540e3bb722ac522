"""The rate points of the `edge` model: what squared error is worth at each, and moving them."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import EdgePreset

Floats = NDArray[np.float64]


def multipliers(preset: EdgePreset) -> Tensor:
    """Weight of squared error against bits per pixel at each rate, float32 (rates,)."""
    return torch.from_numpy(_ladder(preset).astype(np.float32))


@torch.no_grad()
def with_preset(model: EdgeDsin, preset: EdgePreset) -> EdgeDsin:
    """The model under another preset of the same sizes; where its rates have other multipliers,
    what belongs to a rate is interpolated over their logarithm, and extrapolated at the ends."""
    old, new = (np.log(_ladder(p)) for p in (model.preset, preset))
    state = model.state_dict()
    for name, values in state.items():
        if name.endswith((".factor", "log_steps", "log_z_scale")):
            rows = _interpolated(values.double().numpy(), old, new)
            state[name] = torch.from_numpy(rows.astype(np.float32))
    moved = EdgeDsin(preset)
    moved.load_state_dict(state)
    return moved


def fits(model: EdgeDsin, preset: EdgePreset) -> bool:
    """Whether `with_preset` can take that model: all sizes but the number of rates agree, and the
    fusion sees what the same kind of search finds."""
    rates, flow = model.preset.codec.rates, model.preset.search.flow
    return flow == preset.search.flow and model.preset.codec == dataclasses.replace(
        preset.codec, rates=rates
    )


def _ladder(preset: EdgePreset) -> Floats:
    return np.geomspace(*preset.multipliers, preset.codec.rates)


def _interpolated(rows: Floats, old: Floats, new: Floats) -> Floats:
    if np.array_equal(old, new):
        return rows
    first = np.clip(np.searchsorted(old, new) - 1, 0, len(old) - 2)
    share = ((new - old[first]) / (old[first + 1] - old[first]))[:, None]
    return np.asarray((1 - share) * rows[first] + share * rows[first + 1])
