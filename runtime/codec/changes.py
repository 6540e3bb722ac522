"""Which blocks of a picture have changed since a frame that the decoder has.

Latents are compared, not pictures: what counts is how far ŷ of the reference is from y of now, in
quantiser steps. Sensor noise moves y by much less than a step, so it is no change at any rate. A
block is coded again where its squared error has grown, since it was last coded, by more than what
its bits are worth, so small changes are not lost but add up until they are coded.

    error now > error when it was coded + WORTH · bits that it cost then + FLOOR

Besides, every cell of 4×4 positions is coded again once in REFRESH frames, whether or not it has
changed. This decides what is sent, never what it decodes to.
"""

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
REFRESH = 120
"""Frames after which every cell was coded again."""
LEAST_SAVED = 0.02
"""Share of a frame's bits that must be saved, else it stands alone."""
REFERENCE_BITS = 64
"""What a packet's header grows by."""

Blocks = NDArray[np.float32]


class SentPicture(NamedTuple):
    """What a device keeps of a picture that it has coded. `errors` and `bits` (h / 2, w / 2) are
    those of the last time that each block was coded, `ages` (h / 4, w / 4) how many frames ago each
    cell was, `turn` how many frames ago a whole picture was."""

    coded: CodedLatent
    errors: Blocks
    bits: Blocks
    ages: NDArray[np.int32]
    turn: int


def sent_alone(y: NDArray[np.float32], coded: CodedLatent, bits: Blocks) -> SentPicture:
    """A picture that was coded as a whole."""
    ages = np.zeros(coded.z.shape[1:], np.int32)
    return SentPicture(coded, _errors(y, coded), bits, ages, 0)


def sent_after(
    before: SentPicture,
    y: NDArray[np.float32],
    changed: Flags,
    coded: CodedLatent,
    bits: Blocks,
) -> SentPicture:
    """A picture of which the `changed` blocks were coded, for `bits`, and the others kept."""
    errors = np.where(changed, _errors(y, coded), before.errors)
    ages = np.where(_cells(changed).all(-1), 0, before.ages + 1).astype(np.int32)
    return SentPicture(
        coded, errors, np.where(changed, bits, before.bits), ages, before.turn + 1
    )  # fmt: skip


def changed_blocks(y: NDArray[np.float32], before: SentPicture) -> Flags | None:
    """The blocks to be coded after that picture, (h / 2, w / 2); None where so many have changed
    that a packet of its own is about as small."""
    allowed = before.errors + WORTH * before.bits + FLOOR
    changed = _errors(y, before.coded) > allowed
    changed |= _due(before).repeat(2, 0).repeat(2, 1)
    whole, saved = float(before.bits.sum()), float(before.bits[~changed].sum())
    spent = REFERENCE_BITS + _map_bits(changed)
    return changed if saved - spent > LEAST_SAVED * whole else None


def _errors(y: NDArray[np.float32], coded: CodedLatent) -> Blocks:
    errors = np.zeros((y.shape[1] // 2, y.shape[2] // 2), np.float32)
    block_errors(np.ascontiguousarray(y), coded.latent, errors)
    return errors


def _cells(blocks: Flags) -> Flags:
    """The blocks of each cell, (h / 4, w / 4, 4)."""
    rows, columns = blocks.shape[0] // 2, blocks.shape[1] // 2
    return blocks.reshape(rows, 2, columns, 2).swapaxes(1, 2).reshape(rows, columns, 4)


def _due(before: SentPicture) -> Flags:
    """The cells whose turn it is, the oldest first: all of them in the course of REFRESH frames."""
    cells, turn = before.ages.size, before.turn
    count = (turn + 1) * cells // REFRESH - turn * cells // REFRESH
    due = np.zeros(cells, np.bool_)
    due[np.argsort(-before.ages.ravel(), kind="stable")[:count]] = True
    return due.reshape(before.ages.shape)


def _map_bits(changed: Flags) -> float:
    """What the map costs at most, about."""
    share = float(np.clip(changed.mean(), 1 / changed.size, 1 - 1 / changed.size))
    return changed.size * -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
