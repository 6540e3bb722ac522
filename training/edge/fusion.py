"""The `edge` codec's fusion: what the side image shows, merged at 1/8 size.

The network sees the decoder's features, how the pieces of the side image differ from x_dec, and how
badly they matched, so that it can leave a bad match alone. It adds a correction to x_dec.

Of a search by flow it sees y_flow - x_dec and y_blocks - x_dec, and the doubt about either; of a
search by blocks alone y_syn - x_dec, what coding took from y (y_syn - y_dec_syn: the detail that x
has probably lost in the same way), and the cost.
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
    """Starts as the identity. `flow` says which search its side image comes from."""

    def __init__(self, config: EdgeConfig, flow: bool = False) -> None:
        super().__init__()
        width, colours = config.fusion, 3 * PIXELS**2
        self.flow = flow
        self.stem = nn.Conv2d(config.fine + 2 * colours + (2 if flow else 1), width, 1)
        self.gain = RateGain(config.rates, width)
        self.blocks = blocks(config.fusion_blocks, width)
        kernel = config.fusion_out_kernel
        self.out = nn.Conv2d(width, colours, kernel, padding=kernel // 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(
        self, x_dec: Tensor, features: Tensor, first: Tensor, second: Tensor, doubt: Tensor,
        rate: Tensor,
    ) -> Tensor:  # fmt: skip
        """Pictures (N, 3, H, W) in 0..255, features (N, fine, H/8, W/8), rate (N,); the result is
        unclipped. `first`, `second` and `doubt` are y_flow, y_blocks and doubt (N, 2, H/8, W/8) of
        `dsin.runtime.patch_correlation.side_flow`, or y_syn, y_dec_syn and cost (N, 1, H/8, W/8) of
        `dsin.runtime.patch_correlation.block_refinement`."""
        pairs = (first, x_dec), ((second, x_dec) if self.flow else (first, second))
        differences = (F.pixel_unshuffle((a - b) / SPREAD, PIXELS) for a, b in pairs)
        doubt = torch.log(doubt.clamp(max=WORST_COST) + 1) / COST_SPREAD
        x = self.stem(torch.cat([features, *differences, doubt], 1))
        x = self.out(self.blocks(self.gain(x, rate)))
        return x_dec + F.pixel_shuffle(x.float(), PIXELS) * SPREAD
