"""Which blocks of a picture have changed since a frame that the decoder has.

Latents are compared, not pictures: what counts is how far ŷ of the reference is from y of now, in
quantiser steps. Sensor noise moves y by much less than a step, so it is no change at any rate. A
block is coded again where its squared error has grown, since it was last coded, by more than what
its bits are worth, so small changes are not lost but add up until they are coded.

    error now > error when it was coded + WORTH · bits that it cost then + FLOOR

Besides, one frame in WHOLE_EVERY stands alone, so that nothing small stays behind, and whoever
missed a frame, such as a recording, can go on there. This decides what is sent, never what it
decodes to.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.entropy.flag_coder import Flags
from dsin.runtime.entropy.hyper_codec import CodedLatent
from dsin.runtime.entropy.hyper_kernels import block_errors

WORTH = 0.1
"""Squared quantiser steps that a bit is worth: about what it buys between two rate points."""
FLOOR = 0.05
"""Squared quantiser steps of 512 values that noise may add where next to no bits are spent."""
WHOLE_EVERY = 120
"""Of so many frames in a row at least one stands alone."""
LEAST_SAVED = 0.02
"""Share of a frame's bits that must be saved, else it stands alone."""
REFERENCE_BITS = 64
"""What a packet's header grows by."""

Blocks = NDArray[np.float32]


class SentPicture(NamedTuple):
    """What a device keeps of a picture that it has coded. `errors` and `bits` (h / 2, w / 2) are
    those of the last time that each block was coded, `since_whole` how many frames ago a whole
    picture was."""

    coded: CodedLatent
    errors: Blocks
    bits: Blocks
    since_whole: int


def sent_alone(y: NDArray[np.float32], coded: CodedLatent, bits: Blocks) -> SentPicture:
    """A picture that was coded as a whole."""
    return SentPicture(coded, _errors(y, coded), bits, 0)


def sent_after(
    before: SentPicture,
    y: NDArray[np.float32],
    changed: Flags,
    coded: CodedLatent,
    bits: Blocks,
) -> SentPicture:
    """A picture of which the `changed` blocks were coded, for `bits`, and the others kept."""
    errors = np.where(changed, _errors(y, coded), before.errors)
    return SentPicture(
        coded, errors, np.where(changed, bits, before.bits), before.since_whole + 1
    )  # fmt: skip


def changed_blocks(y: NDArray[np.float32], before: SentPicture) -> Flags | None:
    """The blocks to be coded after that picture, (h / 2, w / 2); None where the packet is to stand
    alone: its turn has come, or so much has changed that it is about as small."""
    if before.since_whole + 1 >= WHOLE_EVERY:
        return None
    allowed = before.errors + WORTH * before.bits + FLOOR
    changed = np.asarray(_errors(y, before.coded) > allowed)
    whole, saved = float(before.bits.sum()), float(before.bits[~changed].sum())
    spent = REFERENCE_BITS + _map_bits(changed)
    return changed if saved - spent > LEAST_SAVED * whole else None


def _errors(y: NDArray[np.float32], coded: CodedLatent) -> Blocks:
    errors = np.zeros((y.shape[1] // 2, y.shape[2] // 2), np.float32)
    block_errors(np.ascontiguousarray(y), coded.latent, errors)
    return errors


def _map_bits(changed: Flags) -> float:
    """What the map costs at most, about."""
    share = float(np.clip(changed.mean(), 1 / changed.size, 1 - 1 / changed.size))
    return -changed.size * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
