"""The node `dsin::PatchCorrelation` and its portable body in standard ONNX operators.

    x_dec, y_dec, y  float32 (N, 3, H, W), RGB 0..255   ─►   y_syn  float32 (N, 3, H, W)
                                                             row, col  int32   (N, rows, columns)
                                                             score     float32 (N, rows, columns)

with a row and a column of patches for every ⌈H/ph⌉ and ⌈W/pw⌉. The body is an ONNX local function:
stock onnxruntime runs it, a custom op or a plugin of the same name takes its place where one is
registered. It computes what `patch_correlation` of `dsin.runtime.patch_correlation.definition`
does, over all positions and in float32, but for sums over windows in float64. One row of patches is
correlated at a time, so that memory stays at a few maps of W/pw channels.
"""

# ruff: noqa: N802 - functions bear the names of the ONNX functions that they become

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
from onnxscript import BOOL, DOUBLE, FLOAT, INT32, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from dsin.runtime.patch_correlation.definition import H_SPACE, MEAN, NO_VARIANCE, PRIOR_WIDTH, STD
from dsin.runtime.patch_correlation.options import SearchOptions

DOMAIN = "dsin"
NAME = "PatchCorrelation"
INPUTS = ("x_dec", "y_dec", "y")
OUTPUTS = ("y_syn", "row", "col", "score")

FLOAT_TYPE = onnx.TensorProto.FLOAT
DOUBLE_TYPE = onnx.TensorProto.DOUBLE
INT32_TYPE = onnx.TensorProto.INT32
INT64_TYPE = onnx.TensorProto.INT64

_DSIN = Opset(DOMAIN, 1)
_MEAN = onnx.helper.make_tensor("mean", onnx.TensorProto.FLOAT, (1, 3, 1, 1), MEAN)
_STD = onnx.helper.make_tensor("std", onnx.TensorProto.FLOAT, (1, 3, 1, 1), STD)
_H_SPACE = onnx.helper.make_tensor(
    "h_space", onnx.TensorProto.FLOAT, (3, 3, 1, 1), H_SPACE.flatten().tolist()
)
_TO_XYZ = onnx.helper.make_tensor(
    "to_xyz",
    onnx.TensorProto.FLOAT,
    (3, 3, 1, 1),
    [0.412453, 0.357580, 0.180423, 0.212671, 0.715160, 0.072169, 0.019334, 0.119193, 0.950227],
)
_WHITE = onnx.helper.make_tensor(
    "white", onnx.TensorProto.FLOAT, (1, 3, 1, 1), [0.950456, 1.0, 1.088754]
)
_TO_LAB = onnx.helper.make_tensor(
    "to_lab", onnx.TensorProto.FLOAT, (3, 3, 1, 1), [0, 116, 0, 500, -500, 0, 0, 200, -200]
)
_LAB_OFFSET = onnx.helper.make_tensor("offset", onnx.TensorProto.FLOAT, (1, 3, 1, 1), [-16, 0, 0])
_FALL = -4 * math.log(2) / PRIOR_WIDTH**2


def _function(body: Callable[..., Any]) -> Any:
    return script(_DSIN, default_opset=op)(body)


@_function
def ToHSpace(rgb: FLOAT[...]) -> FLOAT[...]:
    normalised = (rgb - op.Constant(value=_MEAN)) / op.Constant(value=_STD)
    return op.Conv(normalised, op.Constant(value=_H_SPACE))


@_function
def ToLab(rgb: FLOAT[...]) -> FLOAT[...]:
    v = rgb / 255.0
    curved = op.Pow((op.Max(v, op.Constant(value_float=0.04045)) + 0.055) / 1.055, 2.4)
    linear = op.Where(v <= 0.04045, v / 12.92, curved)
    xyz = op.Conv(linear, op.Constant(value=_TO_XYZ)) / op.Constant(value=_WHITE)
    root = op.Pow(op.Max(xyz, op.Constant(value_float=0.001)), 0.3333333333)
    f = op.Where(xyz > 0.008856452, root, xyz / 0.128419 + 0.1379310345)
    return op.Conv(f, op.Constant(value=_TO_LAB)) + op.Constant(value=_LAB_OFFSET)


@_function
def Levels(image: FLOAT[...]) -> FLOAT[...]:
    """Clipped to 0..255; what is not a number becomes 0."""
    numbers = op.Where(op.IsNaN(image), op.Constant(value_float=0.0), image)
    return op.Clip(numbers, op.Constant(value_float=0.0), op.Constant(value_float=255.0))


@_function
def WindowSums(image: DOUBLE[...], height: INT64[1], width: INT64[1]) -> DOUBLE[...]:
    """Sum over all channels of each window: (1, 1, rows, columns), from the integral image."""
    flat = op.ReduceSum(image, op.Constant(value_ints=[1]), keepdims=1)
    border = op.Constant(value_ints=[0, 0, 1, 1, 0, 0, 0, 0])
    down = op.CumSum(op.Pad(flat, border), op.Constant(value_int=2))
    corner = op.CumSum(down, op.Constant(value_int=3))
    row = op.Constant(value_ints=[2])
    column = op.Constant(value_ints=[3])
    first = op.Constant(value_ints=[0])
    rows = op.Shape(corner, start=2, end=3) - height
    columns = op.Shape(corner, start=3, end=4) - width
    low = op.Slice(corner, height, height + rows, row)
    high = op.Slice(corner, first, rows, row)
    strips = low - high
    right = op.Slice(strips, width, width + columns, column)
    return right - op.Slice(strips, first, columns, column)


@_function
def CutRow(
    image: FLOAT[...], top: INT64[1], places: INT64[...], height: INT64[1], width: INT64[1]
) -> FLOAT[...]:
    """The patches of one patch row, at `top` and `places`: (patch columns, 3, height, width)."""
    strip = op.Slice(image, top, top + height, op.Constant(value_ints=[2]))
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    columns = op.Unsqueeze(places, one) + op.Range(zero, op.Squeeze(width), one)
    patches = op.Gather(op.Squeeze(strip, op.Constant(value_ints=[0])), columns, axis=2)
    return op.Transpose(patches, perm=[2, 0, 1, 3])


@_function
def Centre(patches: FLOAT[...]) -> tuple[FLOAT[...], FLOAT[...]]:
    """Patches less their joint mean, and the norm of what remains: (patches, 1, 1, 1)."""
    axes = op.Constant(value_ints=[1, 2, 3])
    centred = patches - op.ReduceMean(patches, axes, keepdims=1)
    return centred, op.Sqrt(op.ReduceSumSquare(centred, axes, keepdims=1))


@_function
def InverseNorms(image: FLOAT[...], height: INT64[1], width: INT64[1]) -> FLOAT[...]:
    """1 / norm of each centred window, or 0: (1, 1, rows, columns)."""
    exact = op.Cast(image, to=DOUBLE_TYPE)
    total = WindowSums(exact, height, width)
    squares = WindowSums(exact * exact, height, width)
    count = op.Cast(height * width * 3, to=DOUBLE_TYPE)
    zero = op.CastLike(op.Constant(value_float=0.0), total)
    least = op.CastLike(op.Constant(value_float=NO_VARIANCE), total)
    spread = op.Sqrt(op.Max(squares - total * total / count, zero))
    inverse = op.Where(spread > least, op.Reciprocal(op.Max(spread, least)), zero)
    return op.Cast(inverse, to=FLOAT_TYPE)


@_function
def PearsonScores(
    patches: FLOAT[...],
    image: FLOAT[...],
    inverse: FLOAT[...],
    down: FLOAT[...],
    across: FLOAT[...],
) -> FLOAT[...]:
    """Correlation × prior of each patch with each window: (1, patches, rows, columns)."""
    least = op.Constant(value_float=NO_VARIANCE)
    centred, norm = Centre(patches)
    product = op.Conv(image, op.Where(norm > least, centred / op.Max(norm, least), centred * 0.0))
    return product * inverse * op.Exp(down) * op.Exp(across)


@_function
def SumsOfSquares(image: FLOAT[...], height: INT64[1], width: INT64[1]) -> FLOAT[...]:
    """Sum of squares of each window around the mean colour: (1, 1, rows, columns)."""
    colour = op.ReduceMean(image, op.Constant(value_ints=[2, 3]), keepdims=1)
    exact = op.Cast(image - colour, to=DOUBLE_TYPE)
    return op.Cast(WindowSums(exact * exact, height, width), to=FLOAT_TYPE)


@_function
def DistanceScores(
    patches: FLOAT[...], image: FLOAT[...], theirs: FLOAT[...], down: FLOAT[...], across: FLOAT[...]
) -> FLOAT[...]:
    """Minus squared distance / prior of each patch and window: (1, patches, rows, columns)."""
    # Around the mean colour, so that little is lost where large squares cancel.
    colour = op.ReduceMean(image, op.Constant(value_ints=[2, 3]), keepdims=1)
    p = patches - colour
    own = op.ReduceSumSquare(p, op.Constant(value_ints=[1, 2, 3]), keepdims=1)
    nearness = 2.0 * op.Conv(image - colour, p) - op.Transpose(own, perm=[1, 0, 2, 3]) - theirs
    return op.Min(nearness, op.Constant(value_float=0.0)) * op.Exp(-down) * op.Exp(-across)


@_function
def HasNoVariance(patches: FLOAT[...]) -> BOOL[...]:
    """(1, patches): such a patch takes its own place."""
    _, norm = Centre(patches)
    return op.Flatten(norm <= op.Constant(value_float=NO_VARIANCE), axis=0)


@_function
def IsNever(patches: FLOAT[...]) -> BOOL[...]:
    """(1, patches) of false: with distances, a flat patch is like any other."""
    _, norm = Centre(patches)
    return op.Flatten(norm < op.Constant(value_float=0.0), axis=0)


@_function
def PriorExponent(
    starts: INT64[...], size: INT64[1], length: INT64[1], shift: INT64[1]
) -> FLOAT[...]:
    """Logarithm of the prior's factor along one axis, of patches at `starts`, for all windows."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    windows = op.Range(zero, op.Squeeze(size - length) + one, one)
    own = op.Unsqueeze(starts + shift, op.Constant(value_ints=[1]))
    distance = op.Cast(windows - own, to=FLOAT_TYPE) / op.Cast(size, to=FLOAT_TYPE)
    return distance * distance * op.Constant(value_float=_FALL)


@_function
def Origins(size: INT64[1], length: INT64[1]) -> tuple[INT64[...], INT64[...]]:
    """Along one axis: where the pieces begin, and where the patches that are compared do."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    pieces = op.Range(zero, op.Squeeze((size + length - 1) / length), one) * length
    return pieces, op.Min(pieces, size - length)


@_function
def Samples(start: INT32[...], size: INT64[1], length: INT64[1], stretched: INT64[1]) -> FLOAT[...]:
    """Where the pixels of the matched pieces lie along one axis: (patch rows, columns, length)."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    steps = op.Cast(op.Range(zero, op.Squeeze(length), one), to=FLOAT_TYPE)
    first = op.Unsqueeze(op.Cast(start, to=FLOAT_TYPE), op.Constant(value_ints=[2]))
    whole = op.Cast(size, to=FLOAT_TYPE)
    extent = op.Cast(length, to=FLOAT_TYPE)
    low = first / whole
    high = (first + extent) / whole
    scale = (high - low) * (whole - 1.0) / op.Max(extent - 1.0, op.Constant(value_float=1.0))
    at = op.Where(stretched == 1, low * (whole - 1.0) + steps * scale, first + steps)
    # Beyond the edge there are only pixels of partial patches that are cut off later.
    return op.Min(at, whole - 1.0)


@_function
def Pick(image: FLOAT[...], row: FLOAT[...], col: FLOAT[...], width: INT64[1]) -> FLOAT[...]:
    """Pixels (3, patch rows, patch columns, ph, pw) of a flattened image (3, H·W)."""
    r = op.Unsqueeze(op.Cast(row, to=INT64_TYPE), op.Constant(value_ints=[3]))
    c = op.Unsqueeze(op.Cast(col, to=INT64_TYPE), op.Constant(value_ints=[2]))
    return op.Gather(image, r * width + c, axis=1)


@_function
def Synthesise(
    y: FLOAT[...],
    row: INT32[...],
    col: INT32[...],
    height: INT64[1],
    width: INT64[1],
    stretched: INT64[1],
) -> FLOAT[...]:
    """The matched pieces of y put together; whole coordinates make this a plain copy."""
    rows = op.Shape(y, start=2, end=3)
    cols = op.Shape(y, start=3, end=4)
    flat = op.Reshape(y, op.Constant(value_ints=[3, -1]))
    r = Samples(row, rows, height, stretched)
    c = Samples(col, cols, width, stretched)
    r0 = op.Floor(r)
    c0 = op.Floor(c)
    r1 = op.Ceil(r)
    c1 = op.Ceil(c)
    down = op.Unsqueeze(r - r0, op.Constant(value_ints=[0, 4]))
    right = op.Unsqueeze(c - c0, op.Constant(value_ints=[0, 3]))
    zero = op.Constant(value_float=0.0)
    corner = Pick(flat, r0, c0, cols)
    # Where nothing is resampled the value stays what it is, be it infinite.
    top = op.Where(right > zero, corner + (Pick(flat, r0, c1, cols) - corner) * right, corner)
    corner_low = Pick(flat, r1, c0, cols)
    low = corner_low + (Pick(flat, r1, c1, cols) - corner_low) * right
    pieces = op.Where(down > zero, top + (low - top) * down, top)
    grid = op.Transpose(pieces, perm=[0, 1, 3, 2, 4])
    tall = op.Shape(row, start=0, end=1) * height
    wide = op.Shape(row, start=1, end=2) * width
    shape = op.Concat(op.Constant(value_ints=[1, 3]), tall, wide, axis=0)
    first = op.Constant(value_ints=[0, 0])
    size = op.Concat(rows, cols, axis=0)
    return op.Slice(op.Reshape(grid, shape), first, size, op.Constant(value_ints=[2, 3]))


@_function
def SearchOne(
    x_dec: FLOAT[...],
    y_dec: FLOAT[...],
    height: INT64[1],
    width: INT64[1],
    shift: INT64[1],
    strength: FLOAT,
) -> tuple[INT32[...], INT32[...], FLOAT[...]]:
    """Positions and scores of one image, for `pearson`; `functions` replaces what `l2` does
    otherwise."""
    rows = op.Shape(x_dec, start=2, end=3)
    cols = op.Shape(x_dec, start=3, end=4)
    columns = cols - width + 1
    one = op.Constant(value_int=1)
    first = op.Constant(value_ints=[0])
    piece_rows, tops = Origins(rows, height)
    piece_cols, places = Origins(cols, width)
    across = op.Unsqueeze(PriorExponent(places, cols, width, shift) * strength, one)
    x_colours = ToHSpace(Levels(x_dec))
    y_colours = ToHSpace(Levels(y_dec))
    factor = InverseNorms(y_colours, height, width)
    nothing = op.Slice(op.Unsqueeze(places, first), first, first)
    row = op.Cast(nothing, to=INT32_TYPE)
    col = op.Cast(nothing, to=INT32_TYPE)
    score = op.Cast(nothing, to=FLOAT_TYPE)
    count = op.Squeeze(op.Shape(tops))
    for i in range(count):
        index = op.Reshape(i, op.Constant(value_ints=[1]))
        top = op.Gather(tops, index)
        piece = op.Gather(piece_rows, index)
        patches = CutRow(x_colours, top, places, height, width)
        down = op.Unsqueeze(
            PriorExponent(top, rows, height, shift) * strength, op.Constant(value_int=2)
        )
        maps = PearsonScores(patches, y_colours, factor, down, across)
        flat = op.Flatten(op.Squeeze(maps, first), axis=1)
        best = op.ArgMax(flat, axis=1, keepdims=0, select_last_index=0)
        most = op.ReduceMax(flat, op.Unsqueeze(one, first), keepdims=1)
        stay = HasNoVariance(patches)
        r = op.Where(stay, top, best / columns) + piece - top
        c = op.Where(stay, places, best - best / columns * columns) + piece_cols - places
        row = op.Concat(row, op.Cast(r, to=INT32_TYPE), axis=0)
        col = op.Concat(col, op.Cast(c, to=INT32_TYPE), axis=0)
        score = op.Concat(score, op.Transpose(most), axis=0)
    return row, col, score


@_function
def PatchCorrelation(
    x_dec: FLOAT[...],
    y_dec: FLOAT[...],
    y: FLOAT[...],
    patch_height: int,
    patch_width: int,
    prior: int,
    measure: str,
    stretched: int,
    off_centre: int,
    plugin_namespace: str,
    plugin_version: str,
) -> tuple[FLOAT[...], INT32[...], INT32[...], FLOAT[...]]:
    """The node's body: one image of the batch after the other."""
    height = op.Constant(value_ints=[0]) + patch_height
    width = op.Constant(value_ints=[0]) + patch_width
    shift = op.Constant(value_ints=[0]) + off_centre
    resample = op.Constant(value_ints=[0]) + stretched
    strength = op.CastLike(prior, op.Constant(value_float=1.0))
    axis = op.Constant(value_ints=[0])
    y_syn = op.Slice(y, axis, axis, axis)
    nothing = op.Slice(op.Constant(value_ints=[0]), axis, axis)
    rows = (op.Shape(y, start=2, end=3) + height - 1) / height
    cols = (op.Shape(y, start=3, end=4) + width - 1) / width
    none = op.Reshape(nothing, op.Concat(axis, rows, cols, axis=0), allowzero=1)
    row = op.Cast(none, to=INT32_TYPE)
    col = op.Cast(none, to=INT32_TYPE)
    score = op.Cast(none, to=FLOAT_TYPE)
    count = op.Squeeze(op.Shape(y, start=0, end=1))
    for n in range(count):
        here = op.Reshape(n, op.Constant(value_ints=[1]))
        x_one = op.Gather(x_dec, here)
        y_one = op.Gather(y, here)
        r, c, s = SearchOne(x_one, op.Gather(y_dec, here), height, width, shift, strength)
        synthesised = Synthesise(y_one, r, c, height, width, resample)
        y_syn = op.Concat(y_syn, synthesised, axis=0)
        row = op.Concat(row, op.Unsqueeze(r, axis), axis=0)
        col = op.Concat(col, op.Unsqueeze(c, axis), axis=0)
        score = op.Concat(score, op.Unsqueeze(s, axis), axis=0)
    return y_syn, row, col, score


_COMMON = (
    Levels,
    WindowSums,
    CutRow,
    Centre,
    PriorExponent,
    Origins,
    Samples,
    Pick,
    Synthesise,
    SearchOne,
    PatchCorrelation,
)
_PEARSON = (ToHSpace, InverseNorms, PearsonScores, HasNoVariance)
_L2 = (ToLab, SumsOfSquares, DistanceScores, IsNever)


def functions(measure: str) -> list[onnx.FunctionProto]:
    """The local functions that a model with a PatchCorrelation node needs."""
    chosen = _PEARSON if measure == "pearson" else _L2
    protos = [f.to_function_proto() for f in (*_COMMON, *chosen)]
    instead = {old.name: new.name for old, new in zip(_PEARSON, chosen, strict=True)}
    body = next(f for f in protos if f.name == SearchOne.name)
    for node in _nodes(body.node):
        node.op_type = instead.get(node.op_type, node.op_type)
    for proto in protos:
        # onnxscript overlooks the functions that are called within loops only.
        if all(opset.domain != DOMAIN for opset in proto.opset_import):
            proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return protos


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)


def node(search: SearchOptions) -> onnx.NodeProto:
    """The node with its attributes; inputs and outputs as in INPUTS and OUTPUTS."""
    return onnx.helper.make_node(
        NAME,
        INPUTS,
        OUTPUTS,
        name=NAME,
        domain=DOMAIN,
        patch_height=search.patch[0],
        patch_width=search.patch[1],
        prior=int(search.prior),
        measure=search.measure,
        stretched=int(search.stretched),
        off_centre=int(search.off_centre),
        # TensorRT takes its plugin of this name and version rather than the body.
        plugin_namespace=DOMAIN,
        plugin_version="1",
    )


def positions() -> list[onnx.ValueInfoProto]:
    """The node's `row`, `col` and `score` as outputs of a graph of one picture."""
    grid: list[int | str | None] = [1, "patch_rows", "patch_columns"]
    kinds = (INT32_TYPE, INT32_TYPE, FLOAT_TYPE)
    return [
        onnx.helper.make_tensor_value_info(name, kind, grid)
        for name, kind in zip(OUTPUTS[1:], kinds, strict=True)
    ]


def standalone(search: SearchOptions) -> onnx.ModelProto:
    """A model of the node alone: three images to y_syn, row, col and score."""
    image: list[int | str | None] = ["N", 3, "H", "W"]
    grid: list[int | str | None] = ["N", "rows", "columns"]
    inputs = [onnx.helper.make_tensor_value_info(n, FLOAT_TYPE, image) for n in INPUTS]
    kinds = (FLOAT_TYPE, INT32_TYPE, INT32_TYPE, FLOAT_TYPE)
    outputs = [
        onnx.helper.make_tensor_value_info(n, kind, shape)
        for n, kind, shape in zip(OUTPUTS, kinds, (image, grid, grid, grid), strict=True)
    ]
    graph = onnx.helper.make_graph([node(search)], NAME, inputs, outputs)
    return onnx.helper.make_model(
        graph,
        functions=functions(search.measure),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)],
        ir_version=10,
    )
