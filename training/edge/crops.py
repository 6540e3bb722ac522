"""Random crops of pictures that lie on the device, drawn and cut there, a batch at a time.

Nothing here waits for the host or depends on it, so that a step can be captured as a CUDA graph:
numbers come from the device's generator, which goes on from replay to replay.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.training.edge.data import Picture, TrainingPictures, decoded, decoded_where_possible
from dsin.training.presets import EdgePhase
from dsin.training.side_alteration import altered, draw_alterations

Size = tuple[int, int]


class PictureStore:
    """Pictures of any sizes in one piece of a device's memory, 8 bits a colour.

    `heights` and `widths` are int64 (pictures,), on the device.
    """

    def __init__(self, images: Sequence[Image], device: torch.device) -> None:
        sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
        starts = np.concatenate([[0], np.cumsum(sizes.prod(1))])
        self._pixels = torch.empty((int(starts[-1]), 3), dtype=torch.uint8, device=device)
        for image, start in zip(images, starts, strict=False):
            rows = torch.from_numpy(image.reshape(-1, 3))
            self._pixels[start : start + len(rows)] = rows
        self._starts = torch.from_numpy(starts[:-1]).to(device)
        self.heights, self.widths = (torch.from_numpy(side.copy()).to(device) for side in sizes.T)

    def cut(self, which: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: Size) -> Tensor:
        """Windows of `size` of the pictures `which`, mirrored where `flip`: float32 (N, 3, H, W),
        in the memory format channels_last. All arguments are (N,); indices int64, flip bool."""
        device = self._pixels.device
        rows = top[:, None] + torch.arange(size[0], device=device)
        columns = torch.arange(size[1], device=device)
        columns = left[:, None] + torch.where(flip[:, None], size[1] - 1 - columns, columns)
        first = self._starts[which][:, None] + rows * self.widths[which][:, None]
        places = first[:, :, None] + columns[:, None, :]
        cut = self._pixels.index_select(0, places.flatten()).reshape(*places.shape, 3)
        return cut.permute(0, 3, 1, 2).float()


class Crops(NamedTuple):
    """x and y, float32 (N, 3, H, W) in whole grey levels; y is None without a side image."""

    x: Tensor
    y: Tensor | None


class PictureBank:
    """All training pictures, decoded once: first both views of every pair, then the photographs.

    `say` is told of photographs that cannot be used; FrameError for a view that cannot.
    """

    def __init__(
        self, data: TrainingPictures, device: torch.device, say: Callable[[str], None]
    ) -> None:
        views = [picture for pair in data.pairs for picture in pair]
        photos, images = decoded_where_possible(data.photos, say)
        images = [*decoded(views), *images]
        self.pictures = [*views, *photos]
        self.pairs = len(data.pairs)
        self.photos = len(photos)
        self.sizes = [image.shape[:2] for image in images]
        self.store = PictureStore(images, device)


class CropDrawer:
    """Draws the batches of one phase.

    Photographs are those of the bank and both pictures of every pair. Half of the crops are
    mirrored, with the views of a pair swapped, which is again a valid rig. `say` is told of what is
    smaller than a crop and left out; FrameError where nothing is left.
    """

    def __init__(self, phase: EdgePhase, bank: PictureBank, say: Callable[[str], None]) -> None:
        self._phase, self._store = phase, bank.store
        device, views = bank.store.heights.device, 2 * bank.pairs
        pairs = [
            (min(x[0], y[0]), min(x[1], y[1]))
            for x, y in zip(bank.sizes[0:views:2], bank.sizes[1:views:2], strict=True)
        ]
        self._pair_sizes = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)
        self._photos = self._pairs = self._pair_sizes.new_empty(0)
        if phase.photo_share > 0:
            fitting = _large_enough(bank.sizes, phase.photo_crop, bank.pictures, say)
            self._photos = torch.tensor(fitting, device=device)
        if phase.photo_share < 1:
            fitting = _large_enough(pairs, phase.crop, bank.pictures[0:views:2], say)
            self._pairs = torch.tensor(fitting, device=device)

    def photos(self) -> Crops:
        """A batch of pictures without side images."""
        which = _one_of(self._photos, self._phase.batch)
        return Crops(self._cut_anywhere(which, self._phase.photo_crop, flip=_coins(which)), None)

    def pairs(self) -> Crops:
        """A batch of pairs, half of their side images altered."""
        size, count = self._phase.crop, self._phase.batch
        pair, other = (_one_of(self._pairs, count) for _ in range(2))
        flip = _coins(pair)
        top, left = (
            _below(self._pair_sizes[pair, axis] - size[axis] + 1) for axis in (0, 1)
        )  # fmt: skip
        x = self._store.cut(2 * pair + flip, top, left, flip, size)
        y = self._store.cut(2 * pair + ~flip, top, left, flip, size)
        alterations = draw_alterations(count, pair.device)
        foreign = self._cut_anywhere(2 * other + 1, size, flip=torch.zeros_like(flip))
        y = torch.where(alterations.foreign[:, None, None, None], foreign, altered(y, alterations))
        return Crops(x, y)

    def _cut_anywhere(self, which: Tensor, size: Size, flip: Tensor) -> Tensor:
        top = _below(self._store.heights[which] - size[0] + 1)
        left = _below(self._store.widths[which] - size[1] + 1)
        return self._store.cut(which, top, left, flip, size)


def _large_enough(
    sizes: Sequence[tuple[int, ...]], crop: Size, pictures: Sequence[Picture],
    say: Callable[[str], None],
) -> list[int]:  # fmt: skip
    """Which of them a crop can be cut from."""
    small = {
        n: f"cannot crop {crop[0]}x{crop[1]} from {picture.name}, which is {height}x{width}"
        for n, (picture, (height, width)) in enumerate(zip(pictures, sizes, strict=True))
        if height < crop[0] or width < crop[1]
    }
    if len(small) == len(sizes):
        nothing = f"there are no pictures to cut {crop[0]}x{crop[1]} from"
        raise FrameError(next(iter(small.values()), nothing))
    if small:
        say(f"left out {len(small)} of {len(sizes)}: {next(iter(small.values()))}")
    return [n for n in range(len(sizes)) if n not in small]


def _one_of(choices: Tensor, count: int) -> Tensor:
    """(count,) of `choices`, each drawn by itself."""
    return choices[torch.randint(len(choices), (count,), device=choices.device)]


def _coins(like: Tensor) -> Tensor:
    return torch.rand(len(like), device=like.device) < 0.5


def _below(limits: Tensor) -> Tensor:
    """A whole number from 0 to each limit, which it does not reach; int64 (N,)."""
    drawn = (torch.rand(len(limits), device=limits.device) * limits).long()
    # A product of float32 can be rounded up to the limit.
    return torch.minimum(drawn, limits - 1)
