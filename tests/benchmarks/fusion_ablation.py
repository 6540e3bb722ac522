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

from dsin.runtime.evaluation.pairs import Pair, read_pair_list
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.data import CentredPairs, RandomPairs
from dsin.training.edge.fusion import EdgeFusion
from dsin.training.edge.model import EdgeDsin
from dsin.training.losses import psnr_db

SAMPLES, BATCH, CROP, VALIDATION_CROP = 240, 4, (192, 384), (320, 1216)
LEARNING_RATE = 5e-4


class Sample(NamedTuple):
    """All that a variant may see; tensors of one picture, (1, ...)."""

    x: Tensor
    x_dec: Tensor
    features: Tensor
    y_flow: Tensor
    y_blocks: Tensor
    doubt: Tensor
    own_place: Tensor
    rate: Tensor


def without_search(s: Sample, side: Tensor) -> Sample:
    return s._replace(y_flow=side, y_blocks=side, doubt=torch.zeros_like(s.doubt))


VARIANTS: dict[str, Callable[[Sample], Sample]] = {
    "all of it": lambda s: s,
    "the flow, without blocks": lambda s: s._replace(y_blocks=s.y_flow),
    "blocks, without the flow": lambda s: s._replace(y_flow=s.y_blocks),
    "without doubt": lambda s: s._replace(doubt=torch.zeros_like(s.doubt)),
    "without the decoder's features": lambda s: s._replace(features=torch.zeros_like(s.features)),
    "y in its own place, no search": lambda s: without_search(s, s.own_place),
    "no side image": lambda s: without_search(s, s.x_dec),
}


@torch.no_grad()
def sample(model: EdgeDsin, x: Tensor, y: Tensor, rate: int) -> Sample:
    index = torch.tensor([rate])
    coded = model.reconstruct(x, index)
    side = model.side_input(coded.x_dec, y, index)
    return Sample(x, coded.x_dec, coded.features, *side, y, index)


def fused(fusion: EdgeFusion, s: Sample) -> Tensor:
    out: Tensor = fusion(s.x_dec, s.features, s.y_flow, s.y_blocks, s.doubt, s.rate)
    return out


def train(
    model: EdgeDsin, samples: list[Sample], change: Callable[[Sample], Sample], steps: int
) -> EdgeFusion:
    torch.manual_seed(0)
    fusion = EdgeFusion(model.preset.codec, flow=True).train()
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
    if not model.preset.search.flow:
        raise SystemExit(f"{checkpoint} searches by blocks alone: name one that searches by flow")
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
