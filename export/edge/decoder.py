"""The whole decoder of an `edge` bundle as one graph, for runtimes that take but one.

    y_hat, rate ─► x_decoder ─► x_dec ─► PatchCorrelation(x_dec, y_dec, y) ─► refinement by blocks
                       └─ features ─────────────────────┐                       │
    ─► fusion(x_dec, features, y_syn, y_dec_syn, cost, rate) ◄──────────────────┘ ─► x_hat

    y_hat   float32 (1, latent, h, w), rate int64 (1,)   as for x_decoder
    y_dec, y  float32 (1, 3, H, W)    the side image as decoded, and itself, in 0..255; H and W are
                                      those of the picture made whole blocks (multiples of 8)
    x_hat, x_dec, y_syn  float32 (1, 3, H, W)
    row, col, score   int32 and float32 (1, patch rows, patch columns): what the search found
    down, right       int64 (H/8, W/8): how far from its own place each block of y_syn was taken

The file's metadata says so too.
It decides as the runtime does (`dsin.runtime.codec.side_fusion`): where the median score says that
y is of another scene, x_hat is x_dec. All is in standard operators but the one node
PatchCorrelation, which has a portable body. It is made of the nodes of the bundle's own graphs, of
8 bits or not.
"""

from pathlib import Path

import onnx

from dsin.export import graph_notes
from dsin.export.edge.refinement_graph import FLOAT, INT64, Expressions, paste, refinement
from dsin.export.graph_builder import Value
from dsin.export.graph_notes import describe
from dsin.export.half_graph import read_graph
from dsin.export.patch_correlation_op import DOMAIN, functions, node, positions
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.side_fusion import LEAST_SCORE, least_size
from dsin.runtime.errors import ExportError
from dsin.runtime.files import write_bytes_atomically
from dsin.runtime.patch_correlation.block_refinement import BLOCK

_PICTURE: list[int | str] = [1, 3, "H", "W"]
_BLOCKS: list[int | str] = ["block_rows", "block_columns"]


def write_edge_decoder(bundle: Bundle, output: Path) -> int:
    """Write the graph, with its weights inside; returns its bytes.

    Raises ExportError as `edge_decoder` does, DsinError where the file cannot be
    written; then what was there stays.
    """
    data = edge_decoder(bundle).SerializeToString()
    write_bytes_atomically(output, data)
    return len(data)


def edge_decoder(bundle: Bundle) -> onnx.ModelProto:
    """The graph. Raises ExportError for a bundle of the paper's model, and for one whose search
    is by flow."""
    if bundle.family != "edge":
        raise ExportError(
            f"bundle {bundle.path.name} already has its whole decoder: {bundle.graphs['decoder']}"
        )
    if bundle.search.flow:
        raise ExportError(
            f"the flow that bundle {bundle.path.name} searches by has no form as a graph: export "
            "a bundle that searches by blocks, as dsin train edge makes them, or run x_decoder and "
            "fusion with the search of dsin.runtime between them"
        )
    first, last = (_part(bundle, name) for name in ("x_decoder", "fusion"))
    g = Expressions()
    g.constants += [*first.graph.initializer, *last.graph.initializer]
    g.nodes += first.graph.node
    size = g.op("Shape", "y", start=2, end=4)
    _cut(g, "x_decoder/x_dec", size, "x_dec")
    _cut(g, "x_decoder/features", g.op("Div", size, g.int64(BLOCK)), "features")
    x, y_dec = (_levels(g, picture) for picture in ("x_dec", "y_dec"))
    g.nodes.append(_search(bundle, x, y_dec))
    refined = refinement(g, x, y_dec, "row", "col", bundle.search.patch)
    g.add("Identity", [refined.cost], "cost")
    for moved, name in ((refined.down, "down"), (refined.right, "right")):
        g.add("Identity", [moved], name)
    for picture, name in (("y", "y_syn"), (y_dec, "y_dec_syn")):
        g.add("Identity", [paste(g, picture, refined.down, refined.right)], name)
    g.nodes += last.graph.node
    g.add("Where", [_related(g, "score"), "fusion/x_hat", "x_dec"], "x_hat")
    inputs: list[Value] = [
        ("y_hat", FLOAT, [1, bundle.channels, "h", "w"]), ("rate", INT64, [1]),
        ("y_dec", FLOAT, _PICTURE), ("y", FLOAT, _PICTURE),
    ]  # fmt: skip
    pictures: list[Value] = [(name, FLOAT, _PICTURE) for name in ("x_hat", "x_dec", "y_syn")]
    blocks: list[Value] = [(name, INT64, _BLOCKS) for name in ("down", "right")]
    model = g.model("decoder", inputs, [*pictures, *blocks])
    model.graph.output.extend(positions())
    describe(model, _notes(bundle))
    model.functions.extend(functions(bundle.search.measure))
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(first.ir_version, last.ir_version)
    for opset in (*first.opset_import, *last.opset_import):
        if opset.domain == "":
            model.opset_import[0].version = max(model.opset_import[0].version, opset.version)
    return model


def _notes(bundle: Bundle) -> dict[str, str]:
    """See `dsin.export.graph_notes`."""
    multiple = bundle.frame_multiple
    moved = f"for each block of {BLOCK}x{BLOCK} pixels of y_syn, how many {{}} from its own place"
    return {
        "bundle": bundle.path.name,
        "codec_id": bundle.codec_id.hex(),
        "y_hat": "the latent that the entropy decoder gives, before any scaling; h and w are those "
        f"of the picture padded to multiples of {multiple[0]}x{multiple[1]} (height x width), "
        f"over {bundle.stride}",
        "rate": f"the packet's rate, 0 to {len(bundle.rate_points) - 1}",
        **graph_notes.PICTURES,
        **graph_notes.positions(bundle.search.patch),
        "down": moved.format("rows down") + " in y it was taken; negative is up",
        "right": moved.format("columns to the right") + " in y it was taken; negative is left",
        "padding": graph_notes.padding((BLOCK, BLOCK), least_size(bundle.search))
        + "; y_dec is cut to the padded size from what x_decoder gives",
    }


def _part(bundle: Bundle, name: str) -> onnx.ModelProto:
    """A graph of the bundle; its inputs keep their names, all else is put below its own."""
    graph = read_graph(bundle.graph_path(name))
    return onnx.compose.add_prefix(graph, f"{name}/", rename_inputs=False)


def _cut(g: Expressions, source: str, size: str, output: str) -> None:
    """The first rows and columns."""
    g.add("Slice", [source, g.int64(0, 0), size, g.int64(2, 3)], output)


def _levels(g: Expressions, picture: str) -> str:
    """Rounded to whole levels, halves to the even one."""
    return g.op("Clip", g.op("Round", picture), g.number(0), g.number(255))


def _search(bundle: Bundle, x: str, y_dec: str) -> onnx.NodeProto:
    made = node(bundle.search)
    made.input[:] = [x, y_dec, "y"]
    # Pieces of whole patches, which the refinement replaces.
    made.output[0] = "y_of_patches"
    return made


def _related(g: Expressions, score: str) -> str:
    """Whether the median of the scores is LEAST_SCORE or more. No sorting: it is enough to count
    what is below, and the two in the middle lie on either side of the border."""
    border = g.number(LEAST_SCORE)
    below = g.op("Less", score, border)
    count = g.op("ReduceSum", g.to(INT64, below), keepdims=0)
    twice, total = g.op("Mul", count, g.whole(2)), g.op("Size", score)
    highest_below = g.op("ReduceMax", g.op("Where", below, score, g.number(-4)), keepdims=0)
    lowest_above = g.op("ReduceMin", g.op("Where", below, g.number(4), score), keepdims=0)
    middle = g.op("Mul", g.op("Add", highest_below, lowest_above), g.number(0.5))
    tie = g.both(
        g.op("Equal", twice, total), g.op("GreaterOrEqual", middle, border)
    )  # fmt: skip
    return g.op("Or", g.op("Less", twice, total), tie)
