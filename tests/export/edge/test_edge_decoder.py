"""The whole `edge` decoder as one graph: what the runtime computes stage by stage."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import textured_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dsin.export.cli import app
from dsin.export.edge.decoder import _related, edge_decoder
from dsin.export.edge.refinement_graph import FLOAT, INT64, Expressions, paste, refinement
from dsin.export.half_graph import to_half
from dsin.runtime import open_bundle
from dsin.runtime.backends.tensorrt_api import Build, Network
from dsin.runtime.backends.tensorrt_plugin import register_plugin
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.side_fusion import LEAST_SCORE, Fused
from dsin.runtime.errors import DsinError, ExportError
from dsin.runtime.patch_correlation import Matches, block_refinement
from dsin.runtime.patch_correlation.block_refinement import BLOCK, refine_reference
from dsin.runtime.pictures import pad, to_planes
from dsin.runtime.stopwatch import Stopwatch

Image = np.ndarray[Any, Any]
PATCH = (20, 24)


def session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


Whole = tuple[Bundle, Any]


@pytest.fixture(scope="module")
def whole(searching_blocks: Path) -> Whole:
    """A bundle that searches by blocks, and its decoder."""
    bundle = open_bundle(searching_blocks)
    return bundle, session(edge_decoder(bundle))


def by_stages(
    bundle: Bundle, x: Image, y: Image, rate: int
) -> tuple[dict[str, Image], Fused, Image]:
    """Inputs of the whole decoder; what the runtime makes of them; and x_dec."""
    encoder, decoder = family_of(bundle).open_codecs(bundle, "cpu", 1)
    fusion = family_of(bundle).open_fusion(bundle, "cpu", 1)
    latents = [encoder.latent(to_planes(pad(v, bundle.frame_multiple)), rate) for v in (x, y)]
    theirs, decoded = (decoder.reconstruct(latent, rate) for latent in latents[::-1])
    side = fusion.prepare(y, theirs)
    rows, columns = side.size
    y_dec, x_dec = (np.asarray(d.x_dec)[:, :, :rows, :columns] for d in (theirs, decoded))
    inputs = {
        "y_hat": latents[0][None], "rate": np.array([rate]), "y_dec": y_dec,
        "y": to_planes(pad(y, side.size)),
    }  # fmt: skip
    return inputs, fusion.fuse(decoded, side, rate, Stopwatch()), x_dec


@pytest.mark.parametrize(
    ("size", "rate", "related"),
    [((130, 200), 5, True), ((64, 150), 6, True), ((100, 150), 1, False)],
)
def test_it_is_the_cut_decoder_around_the_search(
    whole: Whole, size: tuple[int, int], rate: int, related: bool
) -> None:
    bundle, decoder = whole
    inputs, expected, x_dec = by_stages(bundle, *textured_pair(*size, seed=3), rate)
    assert expected.related == related
    names = ["x_hat", "x_dec", "y_syn", "row", "col", "score", "down", "right"]
    x_hat, same, y_syn, row, col, score, down, right = decoder.run(names, inputs)
    np.testing.assert_array_equal(row[0], expected.matches.row)
    np.testing.assert_array_equal(col[0], expected.matches.col)
    for i, j in np.ndindex(down.shape):
        top, left = BLOCK * i + down[i, j], BLOCK * j + right[i, j]
        block = inputs["y"][..., top : top + BLOCK, left : left + BLOCK]
        np.testing.assert_array_equal(
            y_syn[..., BLOCK * i : BLOCK * (i + 1), BLOCK * j : BLOCK * (j + 1)], block
        )
    np.testing.assert_array_equal(same, x_dec)
    np.testing.assert_array_equal(y_syn, expected.y_syn)
    np.testing.assert_allclose(x_hat, expected.x_hat, atol=1e-3)
    np.testing.assert_allclose(score[0], expected.matches.score, atol=1e-5)
    assert np.array_equal(x_hat, same) == (not related)


def test_real_frames(whole: Whole, kitti_pair: tuple[Image, Image]) -> None:
    """A cut of a pair, and the same with a side image of no use."""
    bundle, decoder = whole
    x, y = (np.ascontiguousarray(view[100:260, 400:700]) for view in kitti_pair)
    for side, related in ((y, True), (np.ascontiguousarray(y[::-1, ::-1]), False)):
        inputs, expected, _ = by_stages(bundle, x, side, 3)
        assert expected.related == related
        x_hat, y_syn = decoder.run(["x_hat", "y_syn"], inputs)
        # Blocks may differ where two positions of a patch score alike but for float32.
        assert (y_syn != expected.y_syn).mean() < 0.01
        assert np.abs(x_hat - expected.x_hat).mean() < 0.05


def test_it_says_what_it_takes_and_gives(whole: Whole) -> None:
    bundle, decoder = whole
    notes = decoder.get_modelmeta().custom_metadata_map
    values = {value.name for value in (*decoder.get_inputs(), *decoder.get_outputs())}
    assert set(notes) == {*values, "padding", "bundle", "codec_id"}
    assert notes["bundle"] == "my-edge"
    assert notes["codec_id"] == bundle.codec_id.hex()
    assert notes["y_hat"].endswith("padded to multiples of 64x64 (height x width), over 16")
    assert notes["rate"] == "the packet's rate, 0 to 7"
    assert notes["right"] == (
        "for each block of 8x8 pixels of y_syn, how many columns to the right from its own place "
        "in y it was taken; negative is left"
    )
    assert (
        "height is a multiple of 8 and the width one of 8, at least 24 and 24;"
        in (notes["padding"])
    )


def test_the_node_is_the_only_one_that_is_not_standard(edge_bundle: Path) -> None:
    model = edge_decoder(open_bundle(edge_bundle))
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node if node.domain]
    assert kinds == ["PatchCorrelation"]
    # Engines are built of graphs without control flow.
    assert not [a for node in model.graph.node for a in node.attribute if a.HasField("g")]


# Refinement.


@cache
def refining() -> Any:
    graph = Expressions()
    found = refinement(graph, "x", "y_dec", "row", "col", PATCH)
    graph.add("Identity", [paste(graph, "y_dec", found.down, found.right)], "pasted")
    picture: list[int | str] = [1, 3, "H", "W"]
    positions: list[int | str] = [1, "i", "j"]
    blocks: list[int | str] = ["r", "c"]
    return session(
        graph.model(
            "refinement",
            [
                ("x", FLOAT, picture), ("y_dec", FLOAT, picture),
                ("row", onnx.TensorProto.INT32, positions),
                ("col", onnx.TensorProto.INT32, positions),
            ],
            [
                (found.down, INT64, blocks), (found.right, INT64, blocks),
                (found.cost, FLOAT, [1, 1, *blocks]), ("pasted", FLOAT, picture),
            ],
        )
    )  # fmt: skip


def check(x: Image, y: Image, matches: Matches) -> None:
    down, right, cost, pasted = refining().run(
        None,
        {
            "x": to_planes(x), "y_dec": to_planes(y), "row": matches.row[None],
            "col": matches.col[None],
        },
    )  # fmt: skip
    expected = refine_reference(x, y, matches, PATCH)
    np.testing.assert_array_equal(down, expected.down)
    np.testing.assert_array_equal(right, expected.right)
    np.testing.assert_allclose(cost[0, 0], expected.cost, rtol=3e-7)
    np.testing.assert_array_equal(pasted, to_planes(block_refinement.paste(y, expected)))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(3, 7), columns=st.integers(3, 9), levels=st.sampled_from([2, 30, 256]),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_refinement_is_the_definition(rows: int, columns: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = rows * BLOCK, columns * BLOCK
    grid = -(-size[0] // PATCH[0]), -(-size[1] // PATCH[1])
    x, y = (rng.integers(256 - levels, 256, (*size, 3)).astype(np.uint8) for _ in range(2))
    row = rng.integers(0, size[0] - 8, grid, dtype=np.int32)
    col = rng.integers(0, size[1] - 8, grid, dtype=np.int32)
    check(x, y, Matches(row, col, np.zeros(grid, np.float32)))


def test_black_against_white_stays_within_the_numbers() -> None:
    """The largest sums that there are."""
    x, y = np.zeros((48, 72, 3), np.uint8), np.full((48, 72, 3), 255, np.uint8)
    row, col = np.indices((3, 3), dtype=np.int32)
    matches = Matches(row * 14, col * 24, np.ones((3, 3), np.float32))
    check(x, y, matches)
    checks = np.indices((48, 72)).sum(0)[..., None] % 2 * np.full(3, 255)
    check(checks.astype(np.uint8), (255 - checks).astype(np.uint8), matches)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_the_median_decides_as_numpy_does(count: int) -> None:
    graph = Expressions()
    graph.add("Identity", [_related(graph, "score")], "related")
    grid: list[int | str] = [1, "i", "j"]
    related = session(
        graph.model("related", [("score", FLOAT, grid)], [("related", onnx.TensorProto.BOOL, [])])
    )
    rng = np.random.default_rng(count)
    seen = set()
    for _ in range(40):
        score = rng.uniform(LEAST_SCORE - 0.01, LEAST_SCORE + 0.01, (1, 1, count))
        (found,) = related.run(None, {"score": score.astype(np.float32)})
        assert bool(found) == (float(np.median(score)) >= LEAST_SCORE)
        seen.add(bool(found))
    assert seen == {True, False}


# Engines.


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_it_becomes_an_engine_with_the_plugin(tensorrt: Any, edge_bundle: Path, half: bool) -> None:
    register_plugin()
    bundle = open_bundle(edge_bundle)
    model = edge_decoder(bundle)
    if half:
        to_half(model)
    del model.functions[:]
    parsed = Network(model.SerializeToString(), "decoder")
    found = [parsed.network.get_layer(i) for i in range(parsed.network.num_layers)]
    (plugin,) = (layer for layer in found if layer.type == tensorrt.LayerType.PLUGIN_V3)
    assert {plugin.get_input(i).dtype for i in range(3)} == {tensorrt.float32}
    convolutions = [
        n.get_output(0).dtype for n in found if n.type == tensorrt.LayerType.CONVOLUTION
    ]
    assert (tensorrt.float16 in convolutions) == half
    # Sums of pixels decide between positions, and costs pass what float16 holds.
    sums = [n.get_output(0).dtype for n in found if n.type == tensorrt.LayerType.REDUCE]
    assert len(sums) > 70
    assert set(sums) == {tensorrt.float32, tensorrt.int64}
    if not half:
        return
    shapes = {
        "y_hat": (1, bundle.channels, 8, 12), "rate": (1,), "y_dec": (1, 3, 104, 152),
        "y": (1, 3, 104, 152),
    }  # fmt: skip
    built = parsed.build({name: (shape,) * 3 for name, shape in shapes.items()}, Build())
    assert b"PatchCorrelation" in built.plan


# The command.


def test_the_command_writes_the_graph(edge_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "decoder.onnx"
    done = CliRunner().invoke(app, ["decoder", str(edge_bundle), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert f"wrote {out}" in done.output
    assert {value.name for value in onnx.load(out).graph.input} == {"y_hat", "rate", "y_dec", "y"}


def test_a_bundle_of_the_paper_has_one_already(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["decoder", str(tiny_bundle), "-o", str(tmp_path / "decoder.onnx")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ExportError)
    assert str(done.exception).endswith("already has its whole decoder: decoder.onnx")


def test_a_file_that_cannot_be_written_is_one_line(edge_bundle: Path, tmp_path: Path) -> None:
    arguments = ["decoder", str(edge_bundle), "-o", str(tmp_path / "absent" / "decoder.onnx")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, DsinError)
    assert "cannot write" in str(done.exception)
