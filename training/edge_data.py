"""Batches for the `edge` model: photographs alone, and pairs whose side image was altered."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from dsin.runtime.errors import FrameError
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image
from dsin.training.data import Pair, to_tensor
from dsin.training.presets import EdgePhase
from dsin.training.side_alteration import altered

Size = tuple[int, int]


class EdgeBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches (x, y), float32 (N, 3, H, W) in 0..255; y of photographs is empty (0,).

    Photographs are `photos` and both pictures of every pair. Half of the crops are mirrored, with
    the views of a pair swapped, which is again a valid rig. Files are read once and kept.
    """

    def __init__(
        self, phase: EdgePhase, pairs: Sequence[Pair], photos: Sequence[Path],
        *, seed: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.phase = phase
        self.pairs = pairs
        self.photos = [*photos, *(path for pair in pairs for path in (pair.x, pair.y))]
        self.seed = seed
        self._cache: dict[Path, Image] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        while True:
            alone = rng.random() < self.phase.photo_share
            crops = [
                (self._photo(rng),) if alone else self._pair(rng) for _ in range(self.phase.batch)
            ]
            x = torch.stack([to_tensor(crop[0]) for crop in crops])
            yield x, torch.empty(0) if alone else torch.stack([to_tensor(c[-1]) for c in crops])

    def _photo(self, rng: np.random.Generator) -> Image:
        path = self.photos[rng.integers(len(self.photos))]
        (x,) = _cut([self._read(path)], self.phase.photo_crop, rng, path)
        return x[:, ::-1] if rng.random() < 0.5 else x

    def _pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        pair, foreign = (self.pairs[int(rng.integers(len(self.pairs)))] for _ in range(2))
        x, y = _cut([self._read(pair.x), self._read(pair.y)], self.phase.crop, rng, pair.x)
        if rng.random() < 0.5:
            x, y = y[:, ::-1], x[:, ::-1]
        (other,) = _cut([self._read(foreign.y)], self.phase.crop, rng, foreign.y)
        return x, altered(np.ascontiguousarray(y), other, rng)

    def _read(self, path: Path) -> Image:
        if path not in self._cache:
            self._cache[path] = read_image(path)
        return self._cache[path]


def _cut(images: list[Image], crop: Size, rng: np.random.Generator, path: Path) -> list[Image]:
    """One random window of all images."""
    height, width = (min(image.shape[axis] for image in images) for axis in (0, 1))
    if height < crop[0] or width < crop[1]:
        raise FrameError(
            f"cannot crop {crop[0]}x{crop[1]} from {path}, which is {height}x{width}: leave it out"
        )
    top, left = (
        int(rng.integers(size - length + 1))
        for size, length in zip((height, width), crop, strict=True)
    )
    return [image[top : top + crop[0], left : left + crop[1]] for image in images]
