"""The `edge` codec's fusion: what the side image shows, merged at 1/8 size.

The network sees the decoder's features, how y_syn differs from x_dec, what coding took from y
(y_syn - y_dec_syn: the detail that x has probably lost in the same way), and how badly each block
matched, so that it can leave a bad match alone. It adds a correction to x_dec.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.edge.codec import PIXELS, RateGain, blocks
from dsin.training.presets import EdgeConfig

SPREAD = 32.0
"""Grey levels that count as 1 in differences of pictures."""
WORST_COST = 6e4
COST_SPREAD = 5.0


class EdgeFusion(nn.Module):
    """Starts as the identity."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        width, colours = config.fusion, 3 * PIXELS**2
        self.stem = nn.Conv2d(config.fine + 2 * colours + 1, width, 1)
        self.gain = RateGain(config.rates, width)
        self.blocks = blocks(config.fusion_blocks, width)
        self.out = nn.Conv2d(width, colours, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self, x_dec: Tensor, features: Tensor, y_syn: Tensor, y_dec_syn: Tensor, cost: Tensor,
        rate: Tensor,
    ) -> Tensor:  # fmt: skip
        """Pictures (N, 3, H, W) in 0..255, features (N, fine, H/8, W/8), cost (N, 1, H/8, W/8) of
        `dsin.runtime.patch_correlation.block_refinement`, rate (N,); the result is unclipped."""
        difference, lost = (
            F.pixel_unshuffle((y_syn - other) / SPREAD, PIXELS) for other in (x_dec, y_dec_syn)
        )
        doubt = torch.log(cost.clamp(max=WORST_COST) + 1) / COST_SPREAD
        x = self.stem(torch.cat([features, difference, lost, doubt], 1))
        x = self.out(self.blocks(self.gain(x, rate)))
        return x_dec + F.pixel_shuffle(x.float(), PIXELS) * SPREAD
