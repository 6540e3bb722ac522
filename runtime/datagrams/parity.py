"""Parity by a Reed-Solomon code: of a block's pieces and parity, any as many as pieces suffice.

The code and its field are reedsolo's: GF(256) of polynomial 0x11d, first consecutive root 1,
generator 2. It is linear, so reedsolo codes and corrects unit vectors only, once for each shape of
a block, and numpy applies the matrices that it gives to whole pieces.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_DATA, MAX_PARITY = 16, 16
"""Pieces of a block, and parity for it, at most: its matrices are small then."""
FAILURES = 0.002
"""The share of frames that may be lost in spite of parity."""

Matrix = npt.NDArray[np.uint8]
"""rows×columns uint8, elements of GF(256)."""


def parity_pieces(pieces: Sequence[bytes], parity: int) -> list[bytes]:
    """`parity` pieces more, for 1..MAX_DATA pieces of one length."""
    return _applied(_encoding(len(pieces), parity), pieces)


def restored(received: Mapping[int, bytes], data: int, parity: int) -> list[bytes]:
    """All `data` pieces of a block, from any as many of its pieces and parity, by index. Raises
    KeyError where there are fewer."""
    missing = [index for index in range(data) if index not in received]
    if not missing:
        return [received[index] for index in range(data)]
    used = sorted(received)[:data]
    if len(used) < data:
        raise KeyError(missing[0])
    found = _applied(_decoding(data, parity, tuple(used)), [received[index] for index in used])
    known = {**received, **dict(zip(missing, found, strict=True))}
    return [known[index] for index in range(data)]


@lru_cache(maxsize=4096)
def parity_needed(blocks: Sequence[int], loss: float) -> int:
    """Parity for each of these blocks (their numbers of pieces), so that of all frames FAILURES at
    most are lost where a share `loss` of the datagrams is, each by itself. None without loss."""
    if loss <= 0:
        return 0
    for parity in range(MAX_PARITY):
        arrives = math.prod(_enough(data, parity, loss) for data in blocks)
        if arrives >= 1 - FAILURES:
            return parity
    return MAX_PARITY


def _enough(data: int, parity: int, loss: float) -> float:
    """The chance that at least `data` of `data + parity` datagrams arrive."""
    count = data + parity
    return sum(
        math.comb(count, lost) * loss**lost * (1 - loss) ** (count - lost)
        for lost in range(parity + 1)
    )


def _applied(matrix: Matrix, pieces: Sequence[bytes]) -> list[bytes]:
    """A matrix times pieces, over GF(256): products by table, sums by exclusive or."""
    table = _products()
    columns = [np.frombuffer(piece, np.uint8) for piece in pieces]
    rows = []
    for factors in matrix:
        total = np.zeros(len(columns[0]), np.uint8)
        for factor, column in zip(factors, columns, strict=True):
            total ^= table[factor][column]
        rows.append(total.tobytes())
    return rows


@lru_cache(maxsize=1)
def _products() -> Matrix:
    """256×256: every product of two elements."""
    import reedsolo

    reedsolo.init_tables(0x11D)
    return np.array(
        [[reedsolo.gf_mul(a, b) for b in range(256)] for a in range(256)], dtype=np.uint8
    )


@lru_cache(maxsize=MAX_DATA * MAX_PARITY)
def _encoding(data: int, parity: int) -> Matrix:
    """parity×data: what reedsolo makes of each unit vector."""
    import reedsolo

    _products()
    columns = [reedsolo.rs_encode_msg(_unit(data, n), parity)[data:] for n in range(data)]
    return _matrix([list(column) for column in columns])


@lru_cache(maxsize=256)
def _decoding(data: int, parity: int, used: tuple[int, ...]) -> Matrix:
    """missing×data: what reedsolo restores where, of the pieces used, one is a unit."""
    import reedsolo

    _products()
    missing = [index for index in range(data) if index not in used]
    erased = [index for index in range(data + parity) if index not in used]
    columns = []
    for index in used:
        whole, _, _ = reedsolo.rs_correct_msg(_unit(data + parity, index), parity, erase_pos=erased)
        columns.append([whole[n] for n in missing])
    return _matrix(columns)


def _matrix(columns: Sequence[Sequence[int]]) -> Matrix:
    return np.ascontiguousarray(np.array(columns, dtype=np.uint8).T)


def _unit(length: int, place: int) -> bytearray:
    vector = bytearray(length)
    vector[place] = 1
    return vector
