"""Refinement by blocks, in standard ONNX operators:
`dsin.runtime.patch_correlation.block_refinement` as nodes.

    x, y_dec   float32 (1, 3, H, W) of whole levels; H and W are multiples of BLOCK
    row, col   int32 (1, patch rows, patch columns)
      ─► down, right  int64 (H/8, W/8), and cost  float32 (1, 1, H/8, W/8)

What decides between displacements is exact: sums of pixels stay below 2^24, in float32, and costs
are compared as integers, as multiples of 1 / (30000 n²). The runtime compares them in float64; two
that are equal, or differ by less than its rounding, are all that it may order otherwise. Candidates
come one after the other, so that memory stays at a few pictures' worth.
"""

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from dsin.export.graph_builder import GraphBuilder
from dsin.runtime.patch_correlation.block_refinement import (
    BLOCK,
    FOREIGN,
    FORGIVEN,
    MARGIN,
    MOVED,
    NEIGHBOURS,
    REACH,
)

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
WINDOW = BLOCK + 2 * MARGIN
NEVER = 2**62
"""Above all costs as integers, which stay below 2^47."""


class Expressions(GraphBuilder):
    """A graph in the making whose intermediate results need no names."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        return self.add(kind, list(inputs), f"{kind.lower()}_{len(self.nodes)}", **attributes)

    def whole(self, value: int) -> str:
        """An int64 of no dimensions."""
        return self.constant(f"whole_{value}".replace("-", "m"), np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A float32 of no dimensions."""
        return self.constant(f"number_{value}".replace("-", "m"), np.array(value, np.float32))

    def to(self, kind: int, source: str) -> str:
        return self.op("Cast", source, to=kind)

    def length(self, source: str, axis: int) -> str:
        """Of one axis, an int64 of no dimensions."""
        one = self.op("Shape", source, start=axis, end=axis + 1)
        return self.op("Squeeze", one, self.int64(0))

    def count(self, length: str) -> str:
        """0, 1, … below an int64 of no dimensions."""
        return self.op("Range", self.whole(0), length, self.whole(1))

    def within(self, value: str, least: str, most: str) -> str:
        return self.op("Min", self.op("Max", value, least), most)

    def both(self, *conditions: str) -> str:
        first, *rest = conditions
        for condition in rest:
            first = self.op("And", first, condition)
        return first


class Refined(NamedTuple):
    """Names of the outputs; see the module."""

    down: str
    right: str
    cost: str


class _Axis(NamedTuple):
    """Rows or columns of blocks, each tensor with the blocks on its own axis of two: where they
    begin, and what of their windows lies in the picture: begin, end (excluded)."""

    size: str
    start: str
    first: str
    end: str


def refinement(graph: Expressions, x: str, y_dec: str, row: str, col: str, patch: Any) -> Refined:
    """Add the nodes; inputs and outputs as the module says, `patch` is height and width."""
    g = graph
    rows, columns = _axis(g, x, 2), _axis(g, x, 3)
    mine, seen, pixels = _own_windows(g, x, rows, columns)
    flat = g.op("Reshape", y_dec, g.int64(3, -1))
    shifts = _shifts(g, row, 0, patch[0]), _shifts(g, col, 1, patch[1])
    places = _patches(g, rows, shifts[0], 0, patch[0]), _patches(g, columns, shifts[0], 1, patch[1])
    own = _at(g, shifts, places)
    best, down, right = g.op("Expand", g.whole(NEVER), g.op("Shape", own[0])), *own
    for number, (k, m) in enumerate(NEIGHBOURS):
        shift, exists = _neighbour(g, shifts, places, (k, m))
        if number:
            same = g.both(*(g.op("Equal", a, b) for a, b in zip(shift, own, strict=True)))
            exists = g.both(exists, g.op("Not", same))
        exists = g.both(exists, _fits(g, rows, shift[0]))
        theirs = _their_windows(g, flat, rows, columns, shift)
        for move in range(-REACH, REACH + 1):
            moved = g.op("Add", shift[1], g.whole(move)) if move else shift[1]
            penalty = MOVED * abs(move) + (FOREIGN if number else 0)
            cost = _cost(g, mine, theirs, seen, pixels, move, penalty)
            possible = g.both(exists, _fits(g, columns, moved))
            better = g.both(possible, g.op("Less", cost, best))
            best = g.op("Where", better, cost, best)
            down = g.op("Where", better, shift[0], down)
            right = g.op("Where", better, moved, right)
    return Refined(
        _inside(g, rows, down), _inside(g, columns, right), _as_cost(g, best, pixels)
    )  # fmt: skip


def paste(graph: Expressions, image: str, down: str, right: str) -> str:
    """The image whose blocks are those of `image` where they lie, (1, 3, H, W)."""
    g = graph
    rows, columns = _axis(g, image, 2), _axis(g, image, 3)
    r, c = (
        _spread(g, g.op("Add", axis.start, shift), range(BLOCK), across)
        for axis, shift, across in ((rows, down, False), (columns, right, True))
    )
    at = g.op("Add", g.op("Mul", r, columns.size), c)
    flat = g.op("Reshape", image, g.int64(3, -1))
    blocks = g.op("Transpose", g.op("Gather", flat, at, axis=1), perm=[0, 1, 3, 2, 4])
    return g.op("Reshape", blocks, g.op("Shape", image))


def _axis(g: Expressions, image: str, axis: int) -> _Axis:
    size = g.length(image, axis)
    numbers = g.count(g.op("Div", size, g.whole(BLOCK)))
    start = g.op("Mul", g.op("Unsqueeze", numbers, g.int64(3 - axis)), g.whole(BLOCK))
    first = g.op("Max", g.op("Sub", start, g.whole(MARGIN)), g.whole(0))
    end = g.op("Min", g.op("Add", start, g.whole(BLOCK + MARGIN)), size)
    return _Axis(size, start, first, end)


def _own_windows(g: Expressions, x: str, rows: _Axis, columns: _Axis) -> tuple[str, str, str]:
    """The windows (3, rows, columns, WINDOW, WINDOW) of all blocks; 1 where their pixels lie in
    the picture and 0 elsewhere, float32; and how many do, int64 (rows, columns)."""
    offsets = range(-MARGIN, BLOCK + MARGIN)
    r, c = _spread(g, rows.start, offsets, False), _spread(g, columns.start, offsets, True)
    inside = []
    for at, axis in ((r, rows), (c, columns)):
        low = g.op("GreaterOrEqual", at, g.whole(0))
        inside.append(g.both(low, g.op("Less", at, axis.size)))
    seen = g.to(FLOAT, g.both(*inside))
    pixels = g.op(
        "Mul", g.op("Sub", rows.end, rows.first), g.op("Sub", columns.end, columns.first)
    )  # fmt: skip
    flat = g.op("Reshape", x, g.int64(3, -1))
    return g.op("Gather", flat, _pixels(g, r, c, rows, columns), axis=1), seen, pixels


def _their_windows(
    g: Expressions, flat: str, rows: _Axis, columns: _Axis, shift: tuple[str, str]
) -> str:
    """Of y_dec, wide enough for all moves: (3, rows, columns, WINDOW, WINDOW + 2 · REACH)."""
    r = _spread(g, g.op("Add", rows.start, shift[0]), range(-MARGIN, BLOCK + MARGIN), False)
    wide = range(-MARGIN - REACH, BLOCK + MARGIN + REACH)
    c = _spread(g, g.op("Add", columns.start, shift[1]), wide, True)
    return g.op("Gather", flat, _pixels(g, r, c, rows, columns), axis=1)


def _spread(g: Expressions, start: str, offsets: range, across: bool) -> str:
    """Rows or columns of pixels of each block: (rows, columns, pixels, 1), or (…, 1, pixels)."""
    steps = np.array(offsets, np.int64).reshape((1, -1) if across else (-1, 1))
    name = f"steps_{offsets.start}_{offsets.stop}_{int(across)}".replace("-", "m")
    return g.op("Add", g.op("Unsqueeze", start, g.int64(2, 3)), g.constant(name, steps))


def _pixels(g: Expressions, r: str, c: str, rows: _Axis, columns: _Axis) -> str:
    """Indices into a flattened picture; what lies outside is moved to the edge."""
    inside = [
        g.within(at, g.whole(0), g.op("Sub", axis.size, g.whole(1)))
        for at, axis in ((r, rows), (c, columns))
    ]
    return g.op("Add", g.op("Mul", inside[0], columns.size), inside[1])


def _shifts(g: Expressions, position: str, axis: int, length: int) -> str:
    """How far each patch's match lies from it along an axis, (patch rows, patch columns)."""
    found = g.to(INT64, g.op("Squeeze", position, g.int64(0)))
    own = g.op("Mul", g.count(g.length(found, axis)), g.whole(length))
    return g.op("Sub", found, g.op("Unsqueeze", own, g.int64(1 - axis)))


def _patches(g: Expressions, axis: _Axis, shifts: str, along: int, length: int) -> tuple[str, str]:
    """The number of the patch that each block's centre lies in, and the last one's."""
    centre = g.op("Add", g.op("Squeeze", axis.start, g.int64(1 - along)), g.whole(BLOCK // 2))
    last = g.op("Sub", g.length(shifts, along), g.whole(1))
    return g.op("Min", g.op("Div", centre, g.whole(length)), last), last


def _at(g: Expressions, shifts: tuple[str, str], places: Any) -> tuple[str, str]:
    """Both shifts of the patch at a place for each block, (rows, columns)."""
    (i, _), (j, _) = places
    down, right = (g.op("Gather", g.op("Gather", s, i, axis=0), j, axis=1) for s in shifts)
    return down, right


def _neighbour(
    g: Expressions, shifts: tuple[str, str], places: Any, step: tuple[int, int]
) -> tuple[tuple[str, str], str]:
    """The shifts of a patch beside the own one, and whether there is one."""
    near, exists = [], []
    for (own, last), move, axis in zip(places, step, (1, 0), strict=True):
        wanted = g.op("Add", own, g.whole(move))
        there = g.within(wanted, g.whole(0), last)
        near.append((there, last))
        exists.append(g.op("Unsqueeze", g.op("Equal", there, wanted), g.int64(axis)))
    return _at(g, shifts, near), g.both(*exists)


def _fits(g: Expressions, axis: _Axis, shift: str) -> str:
    """Whether all of each block's window, shifted, lies in the picture."""
    low = g.op("GreaterOrEqual", g.op("Add", axis.first, shift), g.whole(0))
    return g.both(low, g.op("LessOrEqual", g.op("Add", axis.end, shift), axis.size))


def _cost(
    g: Expressions, mine: str, theirs: str, seen: str, pixels: str, move: int, penalty: float
) -> str:
    """Cost of a displacement, penalty included, times 30000 n²: int64 (rows, columns)."""
    first = REACH + move
    there = g.op(
        "Slice", theirs, g.int64(first), g.int64(first + WINDOW), g.int64(4)
    )  # fmt: skip
    d = g.op("Mul", g.op("Sub", mine, there), seen)
    linear, square = (
        g.to(INT64, g.op("ReduceSum", part, g.int64(3, 4), keepdims=0))
        for part in (d, g.op("Mul", d, d))
    )
    ten = g.op("Mul", g.op("Mul", square, pixels), g.whole(10))
    forgiven = g.op("Mul", g.op("Mul", linear, linear), g.whole(round(10 * FORGIVEN)))
    total = g.op("ReduceSum", g.op("Sub", ten, forgiven), g.int64(0), keepdims=0)
    return g.op("Mul", total, g.whole(round(1000 * (1 + penalty))))


def _as_cost(g: Expressions, best: str, pixels: str) -> str:
    n = g.to(FLOAT, pixels)
    scale = g.op("Mul", g.op("Mul", n, n), g.number(30000))
    cost = g.op("Div", g.to(FLOAT, best), scale)
    none = g.op("Equal", best, g.whole(NEVER))
    return g.op(
        "Unsqueeze", g.op("Where", none, g.number(np.inf), cost), g.int64(0, 1)
    )  # fmt: skip


def _inside(g: Expressions, axis: _Axis, shift: str) -> str:
    """Moved until the block itself lies in the picture."""
    most = g.op("Sub", g.op("Sub", axis.size, g.whole(BLOCK)), axis.start)
    return g.within(shift, g.op("Neg", axis.start), most)
