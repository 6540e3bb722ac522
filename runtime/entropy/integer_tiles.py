"""Products of integers in registers: what all dense layers of the kernels consist of.

A tile is four positions by BLOCK outputs. Per processor, whichever is exact and fastest:

    x86      inputs and weights int16, sums int32. A step takes two inputs at once, which the
             processors do in one instruction: multiply pairs, add them (and add that to the sum)
    others   all in float32, where integers below 2**24 are exact in any order of summation

The loop is written in LLVM's own language, of which numba hands on no vectors. It names no
instruction of any processor: LLVM finds them, or does the same by several.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

Elements = NDArray[Any]
"""Inputs and weights of layers: int16 or float32."""

POSITIONS = 4


def _processor() -> tuple[str, str]:
    """The triple and features that numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, features


_TRIPLE, _FEATURES = _processor()
LANES, VECTORS = (16, 4) if "+avx512f" in _FEATURES.split(",") else (8, 2)
"""Sums per vector, and vectors per position: 16 of 32 registers, or 8 of 16 (16 of 32 on ARM)."""
BLOCK = LANES * VECTORS
ELEMENT: type[np.generic] = (
    np.int16 if _TRIPLE.startswith(("x86_64", "i386", "i686", "amd64")) else np.float32
)
_LINE = 64
"""Bytes."""
WORD = 4
"""Bytes that a step takes of a position's inputs."""


def per_word(element: Any) -> int:
    """How many inputs are taken at once: two int16, or one float32."""
    return WORD // int(np.dtype(element).itemsize)


def sums_type(element: Any) -> type[np.generic]:
    """What products of such elements are summed in."""
    return np.int32 if np.dtype(element) == np.int16 else np.float32


def pack_weights(weight: NDArray[np.int16], element: Any) -> Elements:
    """Weights (outputs, inputs) as tiles take them, flat: (blocks, words, BLOCK, inputs of a
    word), with zeros up to whole blocks and words."""
    outputs, inputs = weight.shape
    size = per_word(element)
    words, blocks = -(-inputs // size), -(-outputs // BLOCK)
    padded = np.zeros((blocks * BLOCK, words * size), element)
    padded[:outputs, :inputs] = weight
    packed: Elements = padded.reshape(blocks, BLOCK, words, size).transpose(0, 2, 1, 3).ravel()
    return packed


def aligned(size: int, element: Any) -> Elements:
    """Zeros, flat, which begin where a line of the processor's cache does."""
    item = np.dtype(element).itemsize
    whole = np.zeros(size + _LINE // item, element)
    first = -whole.ctypes.data % _LINE // item
    flat: Elements = whole[first : first + size]
    return flat


@intrinsic  # type: ignore[untyped-decorator]
def dense_tile(
    _typing: Any, memory: Any, places: Any, targets: Any, first: Any, runs: Any, weights: Any,
    block: Any, bias: Any, factor: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """BLOCK outputs of POSITIONS places, whose numbers in `places` and `targets` begin at `first`.

    `memory` has inputs and outputs; all arrays but runs are flat. `places` int64 are where inputs
    lie, `targets` int64 where outputs go, that of block 0. `runs` int64 (n, 3) say how far from a
    place inputs are, where their packed weights begin, and how many words they are. `bias` and
    `factor` are of all outputs; outputs are floor((sum + bias) · factor), within low..high.
    """
    return types.void(
        memory, places, targets, first, runs, weights, block, bias, factor, low, high
    ), _generate_dense


@intrinsic  # type: ignore[untyped-decorator]
def depthwise_tile(
    _typing: Any, memory: Any, place: Any, per_row: Any, target: Any, taps: Any, channels: Any,
    low: Any, high: Any,
) -> Any:  # fmt: skip
    """All channels of one position of a 5×5 layer by channel, to `target`.

    Inputs begin at `place`, and `per_row` elements further on in the next row. `taps` float32,
    flat, has the 25 weights of all channels, then their bias and factors. Channels are a multiple
    of LANES.
    """
    return types.void(
        memory, place, per_row, target, taps, channels, low, high
    ), _generate_depthwise


SIDE = 5
"""Of the kernel of a layer by channel."""
_LONG, _FLOAT = ir.IntType(64), ir.FloatType()


class _Code:
    """Puts instructions together, on the array arguments of an intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder = builder
        self._arrays = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def vector(self, index: int, place: Any, kind: Any) -> Any:
        """What is in memory from an element of an array on."""
        return self.builder.load(self._pointer(index, place, kind), align=2)

    def store(self, value: Any, index: int, place: Any) -> None:
        self.builder.store(value, self._pointer(index, place, value.type), align=2)

    def _pointer(self, index: int, place: Any, kind: Any) -> Any:
        at = self.builder.gep(self._arrays[index], [place])
        return self.builder.bitcast(at, kind.as_pointer())

    def plus(self, value: Any, times: Any, more: Any = 1) -> Any:
        """value + times · more, each a number of Python or of the code."""
        value, times, more = (
            _LONG(each) if isinstance(each, int) else each for each in (value, times, more)
        )
        return self.builder.add(value, self.builder.mul(times, more))

    def loop(self, end: Any, step: int, values: list[Any], body: Any) -> list[Any]:
        """What values become when body(index, values) is run for each index below `end`."""
        builder, before = self.builder, self.builder.block
        head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_LONG)
        held = [builder.phi(value.type) for value in values]
        for phi, value in zip([index, *held], [_LONG(0), *values], strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", index, end), inside, after)
        builder.position_at_end(inside)
        news = [builder.add(index, _LONG(step)), *body(index, held)]
        for phi, value in zip([index, *held], news, strict=True):
            # The body may have had loops of its own: it ends in another block than it began.
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return held

    def repeated(self, value: Any) -> Any:
        """In all lanes."""
        some = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        first = self.builder.insert_element(some, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, some, _indices([0] * LANES))

    def rounded(self, total: Any, factor: Any, low: Any, high: Any, element: Any) -> Any:
        """Of a vector of sums in float32. Within whole bounds it is all the same whether floor or
        they come first, and what they leave fits the element."""
        builder, vector = self.builder, total.type
        scaled = builder.fmul(total, factor)
        above = builder.select(builder.fcmp_ordered(">", scaled, low), scaled, low)
        inside = builder.select(builder.fcmp_ordered("<", above, high), above, high)
        kind = ir.FunctionType(vector, [vector])
        floor = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.floor.v{LANES}f32"
        )  # fmt: skip
        whole = builder.call(floor, [inside])
        if element == _FLOAT:
            return whole
        return builder.fptosi(whole, ir.VectorType(element, LANES))


def _generate_dense(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    code = _Code(context, builder, signature, args)
    pairs = signature.args[0].dtype == types.int16
    number, element = (ir.IntType(32), ir.IntType(16)) if pairs else (_FLOAT, _FLOAT)
    vector, floats = ir.VectorType(number, LANES), ir.VectorType(_FLOAT, LANES)
    size = 2 if pairs else 1
    _, _, _, first, _, _, block, _, _, low, high = args
    tile = [(m, v) for m in range(POSITIONS) for v in range(VECTORS)]
    places, targets = (
        [code.vector(array, code.plus(first, m), _LONG) for m in range(POSITIONS)]
        for array in (1, 2)
    )
    outputs = [code.plus(v * LANES, block, BLOCK) for v in range(VECTORS)]
    biases = [code.vector(7, each, vector) for each in outputs]
    multiply_add = _add_pairs if pairs else _add_product

    def add_run(run: Any, totals: list[Any]) -> list[Any]:
        away, weights, words = (code.vector(4, code.plus(k, run, 3), _LONG) for k in range(3))
        weights = code.plus(weights, builder.mul(block, words), BLOCK * size)
        starts = [builder.add(place, away) for place in places]

        def add_word(word: Any, sums: list[Any]) -> list[Any]:
            own = code.plus(weights, word, BLOCK * size)
            wide = ir.VectorType(element, LANES * size)
            columns = [
                code.vector(5, code.plus(own, v * LANES * size), wide) for v in range(VECTORS)
            ]
            rows = [
                code.repeated(code.vector(0, code.plus(start, word, size), number))
                for start in starts
            ]
            return [
                multiply_add(builder, total, rows[m], columns[v])
                for total, (m, v) in zip(sums, tile, strict=True)
            ]

        return code.loop(words, 1, totals, add_word)

    count = builder.extract_value(_shape(context, builder, signature.args[4], args[4]), 0)
    totals = code.loop(count, 1, [biases[v] for _, v in tile], add_run)
    factors = [code.vector(8, each, floats) for each in outputs]
    ends = code.repeated(low), code.repeated(high)
    for total, (m, v) in zip(totals, tile, strict=True):
        sums = builder.sitofp(total, floats) if pairs else total
        place = builder.add(targets[m], outputs[v])
        code.store(code.rounded(sums, factors[v], *ends, element), 0, place)
    return context.get_dummy_value()


def _generate_depthwise(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    code = _Code(context, builder, signature, args)
    element = ir.IntType(16) if signature.args[0].dtype == types.int16 else _FLOAT
    vector, inputs = ir.VectorType(_FLOAT, LANES), ir.VectorType(element, LANES)
    _, place, per_row, target, _, channels, low, high = args
    ends = code.repeated(low), code.repeated(high)

    def one_vector(channel: Any, _: list[Any]) -> list[Any]:
        def of_taps(row: int) -> Any:
            return code.vector(4, code.plus(channel, channels, row), vector)

        total = of_taps(SIDE**2)
        for a in range(SIDE):
            here = code.plus(code.plus(place, per_row, a), channel)
            for b in range(SIDE):
                x = code.vector(0, code.plus(here, channels, b), inputs)
                x = x if element == _FLOAT else builder.sitofp(x, vector)
                total = _add_product(builder, total, x, of_taps(a * SIDE + b))
        value = code.rounded(total, of_taps(SIDE**2 + 1), *ends, element)
        code.store(value, 0, builder.add(target, channel))
        return []

    code.loop(channels, LANES, [], one_vector)
    return context.get_dummy_value()


def _shape(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).shape


def _indices(numbers: Any) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(numbers))


def _add_product(builder: Any, total: Any, x: Any, weight: Any) -> Any:
    """Float32: rounding never happens, so that fusing both is as exact."""
    product = builder.fmul(x, weight, flags=("contract",))
    return builder.fadd(total, product, flags=("contract",))


def _add_pairs(builder: Any, total: Any, x: Any, weight: Any) -> Any:
    """Each lane is two int16."""
    short, wide = (ir.VectorType(ir.IntType(bits), 2 * LANES) for bits in (16, 32))
    a, b = (builder.sext(builder.bitcast(each, short), wide) for each in (x, weight))
    products, none = builder.mul(a, b), ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, none, _indices(range(first, 2 * LANES, 2)))
        for first in (0, 1)
    )
    return builder.add(total, builder.add(even, odd))
