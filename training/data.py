"""Training and test images: crops, flips, view swaps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dsin.runtime.errors import FrameError
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image, centre_crop
from dsin.runtime.sources.picture_folders import is_picture, natural_order


def list_photos(folder: Path) -> list[Path]:
    """All pictures below a folder, in order. Raises FrameError where there are none."""
    photos = sorted(filter(is_picture, folder.rglob("*")), key=natural_order)
    if not photos:
        raise FrameError(f"{folder} has no pictures: give a folder with some")
    return photos


def to_tensor(image: Image) -> torch.Tensor:
    """H×W×3 uint8 to (3, H, W) float32 in 0..255."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()


class RandomPairs(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Endless random crops of pairs at the same place of both images, as (x, y) float tensors.

    Half of the crops are mirrored with the views swapped, which is again a valid rig. Files are
    read once and kept.
    """

    def __init__(self, pairs: list[Pair], crop: tuple[int, int], *, seed: tuple[int, ...]) -> None:
        self.pairs = pairs
        self.crop = crop
        self.seed = seed
        self._cache: dict[Path, Image] = {}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        while True:
            pair = self.pairs[rng.integers(len(self.pairs))]
            x, y = self._cut(self._read(pair.x), self._read(pair.y), rng)
            if rng.random() < 0.5:
                x, y = y[:, ::-1], x[:, ::-1]
            yield to_tensor(x), to_tensor(y)

    def _read(self, path: Path) -> Image:
        if path not in self._cache:
            self._cache[path] = read_image(path)
        return self._cache[path]

    def _cut(self, x: Image, y: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        height = min(x.shape[0], y.shape[0])
        width = min(x.shape[1], y.shape[1])
        if height < self.crop[0] or width < self.crop[1]:
            raise FrameError(f"cannot crop {self.crop[0]}x{self.crop[1]} from {height}x{width}")
        top = int(rng.integers(height - self.crop[0] + 1))
        left = int(rng.integers(width - self.crop[1] + 1))
        window = np.s_[top : top + self.crop[0], left : left + self.crop[1]]
        return x[window], y[window]


class CentredPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Centre crops of every pair, in the list's order."""

    def __init__(self, pairs: list[Pair], crop: tuple[int, int]) -> None:
        self.pairs = pairs
        self.crop = crop

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        x, y = (centre_crop(read_image(p), self.crop) for p in (pair.x, pair.y))
        return to_tensor(x), to_tensor(y)
