"""The node `dsin::PatchCorrelation` and its portable body in standard ONNX operators.

    x_dec, y_dec, y  float32 (1, 3, H, W), RGB 0..255   ─►   y_syn  float32 (1, 3, H, W)
                                                             row, col  int32   (H/ph, W/pw)
                                                             score     float32 (H/ph, W/pw)

The body is an ONNX local function: stock onnxruntime runs it, a custom op or a plugin of the same
name takes its place where one is registered. It computes what `match` and `synthesise` of
`dsin.runtime.patch_correlation` do, in float32 and over all positions. One row of patches is
correlated at a time, so that memory stays at a few maps of W/pw channels.
"""

# ruff: noqa: N802 - functions bear the names of the ONNX functions that they become

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
from onnxscript import BOOL, FLOAT, INT32, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from dsin.runtime.patch_correlation import H_SPACE, MEAN, NO_VARIANCE, PRIOR_WIDTH, STD
from dsin.training.presets import Quirks, SearchConfig

DOMAIN = "dsin"
NAME = "PatchCorrelation"
INPUTS = ("x_dec", "y_dec", "y")
OUTPUTS = ("y_syn", "row", "col", "score")

FLOAT_TYPE = onnx.TensorProto.FLOAT
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
def WindowSums(image: FLOAT[...], height: INT64[1], width: INT64[1]) -> FLOAT[...]:
    """Sum over all channels of each window: (1, 1, rows, columns)."""
    flat = op.ReduceSum(image, op.Constant(value_ints=[1]), keepdims=1)
    one = op.Constant(value_ints=[1])
    down = op.Expand(op.Constant(value_float=1.0), op.Concat(one, one, height, one, axis=0))
    across = op.Expand(op.Constant(value_float=1.0), op.Concat(one, one, one, width, axis=0))
    return op.Conv(op.Conv(flat, down), across)


@_function
def CutRow(image: FLOAT[...], index: INT64, height: INT64[1], width: INT64[1]) -> FLOAT[...]:
    """The patches of patch row `index`: (patch columns, 3, height, width)."""
    first = op.Reshape(index, op.Constant(value_ints=[1])) * height
    strip = op.Slice(image, first, first + height, op.Constant(value_ints=[2]))
    three = op.Constant(value_ints=[3])
    any = op.Constant(value_ints=[-1])
    grid = op.Reshape(strip, op.Concat(three, height, any, width, axis=0))
    return op.Transpose(grid, perm=[2, 0, 1, 3])


@_function
def Centre(patches: FLOAT[...]) -> tuple[FLOAT[...], FLOAT[...]]:
    """Patches less their joint mean, and the norm of what remains: (patches, 1, 1, 1)."""
    axes = op.Constant(value_ints=[1, 2, 3])
    centred = patches - op.ReduceMean(patches, axes, keepdims=1)
    return centred, op.Sqrt(op.ReduceSumSquare(centred, axes, keepdims=1))


@_function
def PearsonScores(
    patches: FLOAT[...], image: FLOAT[...], exponent: FLOAT[...], height: INT64[1], width: INT64[1]
) -> FLOAT[...]:
    """Correlation × prior of each patch with each window: (1, patches, rows, columns)."""
    least = op.Constant(value_float=NO_VARIANCE)
    centred, norm = Centre(patches)
    product = op.Conv(image, op.Where(norm > least, centred / op.Max(norm, least), centred * 0.0))
    total = WindowSums(image, height, width)
    count = op.Cast(height * width * 3, to=FLOAT_TYPE)
    squares = WindowSums(image * image, height, width)
    spread = op.Sqrt(op.Relu(squares - total * total / count))
    inverse = op.Where(spread > least, 1.0 / op.Max(spread, least), spread * 0.0)
    return product * inverse * op.Exp(exponent)


@_function
def DistanceScores(
    patches: FLOAT[...], image: FLOAT[...], exponent: FLOAT[...], height: INT64[1], width: INT64[1]
) -> FLOAT[...]:
    """Minus squared distance / prior of each patch and window: (1, patches, rows, columns)."""
    # Around the mean colour, so that little is lost where large squares cancel.
    colour = op.ReduceMean(image, op.Constant(value_ints=[2, 3]), keepdims=1)
    p = patches - colour
    q = image - colour
    own = op.ReduceSumSquare(p, op.Constant(value_ints=[1, 2, 3]), keepdims=1)
    theirs = WindowSums(q * q, height, width)
    nearness = 2.0 * op.Conv(q, p) - op.Transpose(own, perm=[1, 0, 2, 3]) - theirs
    return op.Min(nearness, op.Constant(value_float=0.0)) * op.Exp(-exponent)


@_function
def HasNoVariance(patches: FLOAT[...]) -> BOOL[...]:
    """(patches,): such a patch takes its own place."""
    _, norm = Centre(patches)
    return op.Flatten(norm <= op.Constant(value_float=NO_VARIANCE), axis=0)


@_function
def IsNever(patches: FLOAT[...]) -> BOOL[...]:
    """(patches,) of false: with distances, a flat patch is like any other."""
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
def SampleRows(
    start: INT32[...], size: INT64[1], length: INT64[1], stretched: INT64[1]
) -> FLOAT[...]:
    """Where the pixels of the matched pieces lie along one axis: (patch rows, columns, length)."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    steps = op.Cast(op.Range(zero, op.Squeeze(length), one), to=FLOAT_TYPE)
    first = op.Unsqueeze(op.Cast(start, to=FLOAT_TYPE), op.Constant(value_ints=[2]))
    whole = op.Cast(size, to=FLOAT_TYPE)
    extent = op.Cast(length, to=FLOAT_TYPE)
    low = first / whole
    high = (first + extent) / whole
    scale = (high - low) * (whole - 1.0) / (extent - 1.0)
    return op.Where(stretched == 1, low * (whole - 1.0) + steps * scale, first + steps)


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
    size = op.Shape(y)
    rows = op.Shape(y, start=2, end=3)
    cols = op.Shape(y, start=3, end=4)
    flat = op.Reshape(y, op.Constant(value_ints=[3, -1]))
    r = SampleRows(row, rows, height, stretched)
    c = SampleRows(col, cols, width, stretched)
    r0 = op.Floor(r)
    c0 = op.Floor(c)
    r1 = op.Ceil(r)
    c1 = op.Ceil(c)
    down = op.Unsqueeze(r - r0, op.Constant(value_ints=[0, 4]))
    right = op.Unsqueeze(c - c0, op.Constant(value_ints=[0, 3]))
    corner = Pick(flat, r0, c0, cols)
    top = corner + (Pick(flat, r0, c1, cols) - corner) * right
    corner_low = Pick(flat, r1, c0, cols)
    low = corner_low + (Pick(flat, r1, c1, cols) - corner_low) * right
    pieces = op.Transpose(top + (low - top) * down, perm=[0, 1, 3, 2, 4])
    return op.Reshape(pieces, size)


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
) -> tuple[FLOAT[...], INT32[...], INT32[...], FLOAT[...]]:
    """The node's body for `pearson`; `functions` replaces what `l2` does otherwise."""
    height = op.Constant(value_ints=[0]) + patch_height
    width = op.Constant(value_ints=[0]) + patch_width
    shift = op.Constant(value_ints=[0]) + off_centre
    strength = op.CastLike(prior, op.Constant(value_float=1.0))
    rows = op.Shape(x_dec, start=2, end=3)
    cols = op.Shape(x_dec, start=3, end=4)
    columns = cols - width + 1
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    first = op.Constant(value_ints=[0])
    places = op.Range(zero, op.Squeeze(cols / width), one) * width
    across = op.Unsqueeze(PriorExponent(places, cols, width, shift) * strength, one)
    x_colours = ToHSpace(x_dec)
    y_colours = ToHSpace(y_dec)
    nothing = op.Slice(op.Unsqueeze(places, first), first, first)
    row = op.Cast(nothing, to=INT32_TYPE)
    col = op.Cast(nothing, to=INT32_TYPE)
    score = op.Cast(nothing, to=FLOAT_TYPE)
    count = op.Squeeze(rows / height)
    for i in range(count):
        patches = CutRow(x_colours, i, height, width)
        own = op.Unsqueeze(i, first) * height
        down = op.Unsqueeze(
            PriorExponent(own, rows, height, shift) * strength, op.Constant(value_int=2)
        )
        maps = PearsonScores(patches, y_colours, down + across, height, width)
        flat = op.Flatten(op.Squeeze(maps, first), axis=1)
        best = op.ArgMax(flat, axis=1, keepdims=0, select_last_index=0)
        top = op.ReduceMax(flat, op.Unsqueeze(one, first), keepdims=1)
        stay = HasNoVariance(patches)
        r = op.Where(stay, op.Unsqueeze(own, first), op.Unsqueeze(best / columns, first))
        c = op.Where(stay, places, op.Unsqueeze(best - best / columns * columns, first))
        row = op.Concat(row, op.Cast(r, to=INT32_TYPE), axis=0)
        col = op.Concat(col, op.Cast(c, to=INT32_TYPE), axis=0)
        score = op.Concat(score, op.Transpose(top), axis=0)
    y_syn = Synthesise(y, row, col, height, width, op.Constant(value_ints=[0]) + stretched)
    return y_syn, row, col, score


_COMMON = (
    WindowSums,
    CutRow,
    Centre,
    PriorExponent,
    SampleRows,
    Pick,
    Synthesise,
    PatchCorrelation,
)
_PEARSON = (ToHSpace, PearsonScores, HasNoVariance)
_L2 = (ToLab, DistanceScores, IsNever)


def functions(measure: str) -> list[onnx.FunctionProto]:
    """The local functions that a model with a PatchCorrelation node needs."""
    chosen = _PEARSON if measure == "pearson" else _L2
    protos = [f.to_function_proto() for f in (*_COMMON, *chosen)]
    instead = {old.name: new.name for old, new in zip(_PEARSON, chosen, strict=True)}
    body = next(f for f in protos if f.name == NAME)
    for node in _nodes(body.node):
        node.op_type = instead.get(node.op_type, node.op_type)
    return protos


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)


def node(search: SearchConfig, quirks: Quirks) -> onnx.NodeProto:
    """The node with the attributes of a preset; inputs and outputs as in INPUTS and OUTPUTS."""
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
        stretched=int(quirks.stretched_patches),
        off_centre=int(quirks.off_centre_prior),
    )


def standalone(search: SearchConfig, quirks: Quirks) -> onnx.ModelProto:
    """A model of the node alone: three images to y_syn, row, col and score."""
    image: list[int | str | None] = [1, 3, "H", "W"]
    grid: list[int | str | None] = ["rows", "columns"]
    inputs = [onnx.helper.make_tensor_value_info(n, FLOAT_TYPE, image) for n in INPUTS]
    kinds = (FLOAT_TYPE, INT32_TYPE, INT32_TYPE, FLOAT_TYPE)
    outputs = [
        onnx.helper.make_tensor_value_info(n, kind, shape)
        for n, kind, shape in zip(OUTPUTS, kinds, (image, grid, grid, grid), strict=True)
    ]
    graph = onnx.helper.make_graph([node(search, quirks)], NAME, inputs, outputs)
    return onnx.helper.make_model(
        graph,
        functions=functions(search.measure),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)],
        ir_version=10,
    )
