"""What each input of the `edge` model's fusion is worth, each variant trained anew.

python tests/benchmarks/fusion_ablation.py CHECKPOINT TRAIN_LIST VAL_LIST ROOT [STEPS]

The codec stays as it is. Crops of the training pairs are coded and searched once; then a fresh
fusion is trained on them for every variant, with the same crops in the same order, and measured on
the middles of the validation pairs at the middle rate. Prints dB over the picture without the side
image. (About half an hour on two cores with 800 steps.)
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dsin.runtime.patch_correlation import Matches, match
from dsin.runtime.patch_correlation.block_refinement import BLOCK, Refined, displacements, paste
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.pictures import from_planes, to_planes, to_uint8
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.data import CentredPairs, Pair, RandomPairs, read_pair_list
from dsin.training.edge.fusion import EdgeFusion
from dsin.training.edge.model import EdgeDsin
from dsin.training.edge.side import side_input
from dsin.training.losses import psnr_db

SAMPLES, BATCH, CROP, VALIDATION_CROP = 240, 4, (192, 384), (320, 1216)
LEARNING_RATE = 5e-4


class Sample(NamedTuple):
    """All that a variant may see; tensors of one picture, (1, ...)."""

    x: Tensor
    x_dec: Tensor
    features: Tensor
    y_syn: Tensor
    y_dec_syn: Tensor
    cost: Tensor
    whole_patches: Tensor
    own_place: Tensor
    rate: Tensor


def without_refinement(s: Sample) -> Sample:
    # y_dec_syn and cost are of the refined blocks: a variant without these has neither.
    return s._replace(
        y_syn=s.whole_patches, y_dec_syn=s.whole_patches, cost=torch.zeros_like(s.cost)
    )


VARIANTS: dict[str, Callable[[Sample], Sample]] = {
    "all of it": lambda s: s,
    "without y_dec_syn": lambda s: s._replace(y_dec_syn=s.y_syn),
    "without cost": lambda s: s._replace(cost=torch.zeros_like(s.cost)),
    "without the decoder's features": lambda s: s._replace(features=torch.zeros_like(s.features)),
    "y_syn of whole patches, nothing else": without_refinement,
    "y in its own place, no search": lambda s: s._replace(
        y_syn=s.own_place, y_dec_syn=s.own_place, cost=torch.zeros_like(s.cost)
    ),
    "no side image": lambda s: s._replace(
        y_syn=s.x_dec, y_dec_syn=s.x_dec, cost=torch.zeros_like(s.cost)
    ),
}  # fmt: skip


@torch.no_grad()
def sample(model: EdgeDsin, x: Tensor, y: Tensor, rate: int) -> Sample:
    index = torch.tensor([rate])
    coded = model.reconstruct(x, index)
    y_dec = model.reconstruct(y, index).x_dec
    side = side_input(coded.x_dec, y_dec, y, model.preset.search)
    whole = whole_patches(coded.x_dec, y_dec, y, model.preset.search)
    return Sample(x, coded.x_dec, coded.features, *side, whole, y, index)


def whole_patches(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: SearchOptions) -> Tensor:
    """y_syn as the paper has it, but cut into blocks: every block moves with its patch."""
    size = (x_dec.shape[2], x_dec.shape[3])
    mine, theirs, side = (
        to_uint8(from_planes(p.numpy()), size, truncate=False) for p in (x_dec, y_dec, y)
    )
    moves = by_block(match(mine, theirs, patch=search.patch), search.patch, size)
    return torch.from_numpy(to_planes(paste(side, moves)))


def by_block(matches: Matches, patch: tuple[int, int], size: tuple[int, int]) -> Refined:
    down, right = displacements(matches, patch)
    corners = [np.arange(0, length, BLOCK) for length in size]
    i, j = (
        np.minimum((start + BLOCK // 2) // length, count - 1)
        for start, length, count in zip(corners, patch, down.shape, strict=True)
    )
    moves = []
    for shift, start, length in zip((down, right), corners, size, strict=True):
        first = start[:, None] if shift is down else start[None, :]
        moves.append(np.clip(shift[i[:, None], j], -first, length - BLOCK - first))
    rows, columns = (len(c) for c in corners)
    return Refined(moves[0], moves[1], np.zeros((rows, columns), np.float32))


def fused(fusion: EdgeFusion, s: Sample) -> Tensor:
    out: Tensor = fusion(s.x_dec, s.features, s.y_syn, s.y_dec_syn, s.cost, s.rate)
    return out


def train(
    model: EdgeDsin, samples: list[Sample], change: Callable[[Sample], Sample], steps: int
) -> EdgeFusion:
    torch.manual_seed(0)
    fusion = EdgeFusion(model.preset.codec).train()
    optimiser = torch.optim.Adam(fusion.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = np.random.default_rng(0)
    for _ in range(steps):
        chosen = [samples[n] for n in order.integers(len(samples), size=BATCH)]
        batch = change(Sample(*(torch.cat(parts) for parts in zip(*chosen, strict=True))))
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(fused(fusion, batch), batch.x)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return fusion.eval()


@torch.no_grad()
def gain_db(fusion: EdgeFusion, samples: list[Sample], change: Callable[[Sample], Sample]) -> float:
    gains = [
        psnr_db(s.x, fused(fusion, change(s)).clamp(0, 255)) - psnr_db(s.x, s.x_dec)
        for s in samples
    ]
    return float(torch.cat(gains).mean())


def main() -> None:
    checkpoint, train_list, val_list, root = map(Path, sys.argv[1:5])
    steps = int(sys.argv[5]) if len(sys.argv) > 5 else 800
    model, _ = load_edge_checkpoint(checkpoint)
    rate = (model.preset.codec.rates - 1) // 2
    pairs: list[Pair] = read_pair_list(train_list, root)
    crops = iter(RandomPairs(pairs, CROP, seed=(0,)))
    drawn = [next(crops) for _ in range(SAMPLES)]
    training = [sample(model, x[None], y[None], rate) for x, y in drawn]
    middles = CentredPairs(read_pair_list(val_list, root), VALIDATION_CROP)
    validation = [
        sample(model, x[None], y[None], rate)
        for x, y in map(middles.__getitem__, range(len(middles)))
    ]
    print(f"{'fusion sees':38} gain dB")
    for name, change in VARIANTS.items():
        fusion = train(model, training, change, steps)
        print(f"{name:38} {gain_db(fusion, validation, change):+.2f}", flush=True)


if __name__ == "__main__":
    main()
