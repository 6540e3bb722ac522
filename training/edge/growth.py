"""Weights of one `edge` model as the start of another with more features, more blocks or fewer
entropy steps, so that what was learned need not be learned again.

New features start at random and unseen by old ones, new blocks as the identity, and of a kernel
that becomes pointwise the middle is kept. The grown model is close to the old one where only sizes
grew; steps of another number predict another part of the symbols and have to be trained.
"""

import torch
from torch import Tensor

from dsin.runtime.errors import CheckpointError
from dsin.training.edge.codec import Block
from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import EdgePreset


@torch.no_grad()
def grown(model: EdgeDsin, preset: EdgePreset) -> EdgeDsin:
    """A model of the preset with the weights of `model` in its leading features. A fusion of other
    sizes starts anew: it has to learn the new codec's errors anyway.

    Raises CheckpointError where the preset has other rates, or less of anything but entropy steps.
    """
    rates, wanted = model.preset.codec.rates, preset.codec.rates
    if rates != wanted:
        raise CheckpointError(f"weights of {rates} rates cannot grow into a preset of {wanted}")
    larger = EdgeDsin(preset)
    _make_blocks_identities(larger)
    old, new = model.state_dict(), larger.state_dict()
    if _fusion_sizes(model.preset) != _fusion_sizes(preset):
        old = {name: value for name, value in old.items() if not name.startswith("fusion.")}
    steps = model.preset.codec.entropy_steps, preset.codec.entropy_steps
    for name, target in new.items():
        source = old.get(_stored_name(name, *steps))
        if source is None:
            continue
        _put(name, _middle(source, target), target, (model, larger))
    larger.load_state_dict(new)
    return larger


def _fusion_sizes(preset: EdgePreset) -> tuple[int, ...]:
    codec = preset.codec
    sizes = codec.fine, codec.fusion, codec.fusion_blocks, codec.fusion_out_kernel
    return *sizes, preset.search.flow


def _stored_name(name: str, old_steps: int, new_steps: int) -> str:
    """The last step goes on as the last, and the first as the first."""
    if not name.startswith("entropy.steps."):
        return name
    number, rest = name.removeprefix("entropy.steps.").split(".", 1)
    step = int(number)
    stored = step if step < new_steps - 1 else old_steps - 1
    return f"entropy.steps.{stored}.{rest}"


def _make_blocks_identities(model: EdgeDsin) -> None:
    """Trained blocks are filled afterwards."""
    for module in model.modules():
        if isinstance(module, Block):
            torch.nn.init.zeros_(module.outer.weight)
            torch.nn.init.zeros_(module.shrink.weight)


def _middle(source: Tensor, target: Tensor) -> Tensor:
    """Of a 3×3 kernel that is to be pointwise, the middle."""
    if source.dim() == 4 and source.shape[2] == 3 and target.shape[2] == 1:
        return source[:, :, 1:2, 1:2]
    return source


def _put(name: str, source: Tensor, target: Tensor, models: tuple[EdgeDsin, EdgeDsin]) -> None:
    """Fill the leading features; means and scales, which share a layer, each for themselves."""
    if name.startswith("entropy.steps.") and ".out." in name:
        for part, room in zip(source.chunk(2), target.chunk(2), strict=True):
            _fill(name, part, room)
        return
    if name.startswith("entropy.steps.") and name.endswith("stem.weight"):
        known, theirs = (m.preset.codec.context for m in models)
        target.zero_()
        _fill(name, source[:, :known], target[:, :theirs])
        _fill(name, source[:, known:], target[:, theirs:])
        return
    if source.dim() == 4:
        # What is known must not see new features before they mean anything.
        target[: len(source)] = 0
    _fill(name, source, target)


def _fill(name: str, source: Tensor, target: Tensor) -> None:
    if source.dim() != target.dim() or any(
        have > room for have, room in zip(source.shape, target.shape, strict=True)
    ):
        raise CheckpointError(
            f"{name} is {tuple(source.shape)} and cannot grow into {tuple(target.shape)}: use a "
            "preset with sizes that are at least as large"
        )
    target[tuple(slice(size) for size in source.shape)] = source
