"""What calling a model gives, whatever its family."""

from typing import NamedTuple

from torch import Tensor


class ModelOutput(NamedTuple):
    """`picture` RGB float32 (N, 3, H, W) in 0..255; `bits` (N,), what each picture costs."""

    picture: Tensor
    bits: Tensor
