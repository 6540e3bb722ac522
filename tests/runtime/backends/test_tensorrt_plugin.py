"""The TensorRT plugin: taken instead of the body, built into engines, launched as it should be."""

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import textured_pair
from support.tensorrt_rtx import build, parse

from dsin.export import patch_correlation_op
from dsin.runtime.backends import tensorrt_plugin
from dsin.runtime.backends.plugin_fields import Attributes
from dsin.runtime.errors import BackendError
from dsin.runtime.patch_correlation import patch_cuda
from dsin.runtime.patch_correlation.definition import (
    Matches,
    patch_correlation,
    scores_at,
    synthesise,
)
from dsin.runtime.patch_correlation.options import SearchOptions

SHIPPED = (
    Path(__file__).resolve().parents[3] / "runtime" / "codec" / "bundles" / "paper" / "decoder.onnx"
)
PEARSON = Attributes(20, 24, prior=1, stretched=0, off_centre=0, measure="pearson")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def trt(tensorrt: Any) -> Any:
    """TensorRT with the plugin."""
    tensorrt_plugin.register_plugin()
    return tensorrt


def model(
    size: tuple[int | str, int | str] = ("H", "W"),
    *,
    batch: int = 1,
    image: int = FLOAT,
    **attributes: Any,
) -> onnx.ModelProto:
    """The node alone, with its body, images of one size and type, and attributes changed."""
    made = patch_correlation_op.standalone(SearchOptions())
    (node,) = made.graph.node
    changed = {"plugin_namespace": "dsin", "plugin_version": "1", **attributes}
    kept = [a for a in node.attribute if a.name not in changed]
    del node.attribute[:]
    node.attribute.extend(kept)
    given = {name: value for name, value in changed.items() if value is not None}
    node.attribute.extend(onnx.helper.make_attribute(*item) for item in given.items())
    for value in (*made.graph.input, made.graph.output[0]):
        shape = [batch, 3, *size]
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, image, shape))
    return made


def without_functions(data: bytes) -> bytes:
    """A serialised model less its local functions, the portable body of PatchCorrelation."""
    model = onnx.load_model_from_string(data)
    del model.functions[:]
    return model.SerializeToString()


def bare(*args: Any, **options: Any) -> bytes:
    return without_functions(model(*args, **options).SerializeToString())


def as_half(decoder: onnx.ModelProto) -> onnx.ModelProto:
    """Every float32 of a graph made float16: inputs, outputs, weights and casts."""
    graph = decoder.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = HALF
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == FLOAT:
                attribute.i = HALF
            assert not attribute.HasField("t")
    return decoder


@contextmanager
def unregistered(trt: Any) -> Iterator[None]:
    registry, creator = trt.get_plugin_registry(), tensorrt_plugin.plugin_creator()
    assert registry.deregister_creator(creator)
    try:
        yield
    finally:
        registry.register_creator(creator, tensorrt_plugin.NAMESPACE)


def make_plugin(trt: Any, attributes: Attributes) -> Any:
    """A plugin as TensorRT makes it, from fields."""
    text, number = trt.PluginFieldType.CHAR, trt.PluginFieldType.INT32
    fields = [
        trt.PluginField(name, data, text if name == "measure" else number)
        for name, data in attributes.to_fields().items()
    ]
    creator = tensorrt_plugin.plugin_creator()
    return creator.create_plugin("search", fields, trt.TensorRTPhase.BUILD)


# Parsing.


@pytest.mark.parametrize("image", [FLOAT, HALF], ids=["fp32", "fp16"])
@pytest.mark.parametrize("drop", [True, False], ids=["without body", "with body"])
def test_the_parser_takes_the_plugin(trt: Any, image: int, drop: bool) -> None:
    made = model(image=image).SerializeToString()
    parsed = parse(trt, without_functions(made) if drop else made)
    assert parsed.errors == []
    assert parsed.kinds() == [trt.LayerType.PLUGIN_V3]
    assert parsed.network.get_layer(0).name == "PatchCorrelation"
    half_or_float = trt.float16 if image == HALF else trt.float32
    assert parsed.types() == {
        "y_syn": half_or_float, "row": trt.int32, "col": trt.int32, "score": trt.float32,
    }  # fmt: skip


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_shipped_decoder_has_one_plugin_and_nothing_of_the_body(trt: Any, half: bool) -> None:
    graph = onnx.load(SHIPPED)
    if half:
        as_half(graph)
    parsed = parse(trt, without_functions(graph.SerializeToString()))
    assert parsed.errors == []
    kinds = parsed.kinds()
    assert kinds.count(trt.LayerType.PLUGIN_V3) == 1
    assert trt.LayerType.TRIP_LIMIT not in kinds  # the body loops over rows of patches
    operators = [node.op_type for node in graph.graph.node]
    assert kinds.count(trt.LayerType.CONVOLUTION) == operators.count("Conv")
    assert kinds.count(trt.LayerType.DECONVOLUTION) == operators.count("ConvTranspose")
    assert parsed.types()["x_hat"] == (trt.float16 if half else trt.float32)
    plan = build(trt, parsed, (40, 48), (320, 1224), (400, 1248))
    assert plan is not None
    assert b"PatchCorrelation" in plan


def test_external_weights_are_found_beside_the_model(trt: Any) -> None:
    parsed = parse(trt, without_functions(SHIPPED.read_bytes()), SHIPPED)
    assert parsed.errors == []
    assert trt.LayerType.PLUGIN_V3 in parsed.kinds()


def test_an_absent_plugin_is_an_error_and_not_the_body(trt: Any) -> None:
    with unregistered(trt):
        parsed = parse(trt, bare())
    assert "Plugin not found" in parsed.errors[0]


def test_a_plugin_of_another_version_is_absent(trt: Any) -> None:
    assert "Plugin not found" in parse(trt, bare(plugin_version="2")).errors[0]


def test_with_the_body_an_absent_plugin_goes_unnoticed(trt: Any) -> None:
    """Why engines are built from models without functions."""
    with unregistered(trt):
        parsed = parse(trt, model().SerializeToString())
    assert not any("Plugin not found" in error for error in parsed.errors)
    assert parsed.network.num_layers > 1
    assert trt.LayerType.PLUGIN_V3 not in parsed.kinds()


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"patch_height": 0}, "patch_height is 0, not a positive integer"),
        ({"patch_width": 2.5}, "patch_width is 2.5, not a positive integer"),
        ({"patch_width": [20, 24]}, "patch_width is 20, 24, not a positive integer"),
        ({"patch_height": None}, "patch_height is missing"),
        ({"prior": 2}, "prior is 2, not 0 or 1"),
        ({"stretched": None}, "stretched is missing"),
        ({"measure": "cosine"}, "measure is 'cosine', not pearson or l2"),
        ({"measure": None}, "measure is missing"),
    ],
)
def test_unusable_attributes_are_named(
    trt: Any, caplog: pytest.LogCaptureFixture, attributes: dict[str, Any], problem: str
) -> None:
    parsed = parse(trt, bare(**attributes))
    assert "Could not create the plugin" in parsed.errors[0]
    (message,) = caplog.messages
    assert message == f"the node PatchCorrelation is unusable: {problem}; export the model anew"
    assert caplog.records[0].levelno == logging.ERROR


# Shapes and engines.


@pytest.mark.parametrize(
    ("size", "grid"),
    [((320, 1224), (16, 51)), ((40, 48), (2, 2)), ((50, 71), (3, 3)), ((20, 24), (1, 1))],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_engines_of_one_size(
    trt: Any, size: tuple[int, int], grid: tuple[int, int], batch: int
) -> None:
    parsed = parse(trt, bare(size, batch=batch))
    assert parsed.shapes() == {
        "y_syn": (batch, 3, *size), "row": (batch, *grid), "col": (batch, *grid),
        "score": (batch, *grid),
    }  # fmt: skip
    assert build(trt, parsed)


@pytest.mark.parametrize("image", [FLOAT, HALF], ids=["fp32", "fp16"])
def test_engines_of_many_sizes(trt: Any, monkeypatch: pytest.MonkeyPatch, image: int) -> None:
    """Shapes follow the profile, and the workspace is that of its largest frame."""
    grids, asked = [], []

    def configure(self: Any, inputs: Any, outputs: Any) -> None:
        ends = ("min", "opt", "max")
        grids[:] = [tuple(tuple(getattr(o, end)) for end in ends) for o in outputs[1:]]

    def workspace(*arguments: Any) -> int:
        asked.append(arguments)
        return 1 << 16

    monkeypatch.setattr(tensorrt_plugin._Plugin, "configure_plugin", configure)
    monkeypatch.setattr(patch_cuda, "workspace_bytes", workspace)
    assert build(trt, parse(trt, bare(image=image)), (40, 49), (320, 1224), (501, 1300))
    assert grids == [((1, 2, 3), (1, 16, 51), (1, 26, 55))] * 3
    assert set(asked) == {(1, 501, 1300, (20, 24))}


def test_a_profile_with_frames_smaller_than_a_patch_is_refused(
    trt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert build(trt, parse(trt, bare()), (19, 48), (320, 1224), (500, 1300)) is None
    assert caplog.messages == [
        "the smallest x_dec of the profile is 48x19, smaller than a patch of 24x20"
    ]


def test_the_engine_holds_the_attributes(trt: Any) -> None:
    pearson, l2 = (
        build(trt, parse(trt, bare((80, 96), measure=measure))) for measure in ("pearson", "l2")
    )
    assert pearson is not None
    assert l2 is not None
    for name in PEARSON.to_fields():
        assert name.encode() in pearson
    assert b"pearson" in pearson
    assert b"pearson" not in l2


# The plugin itself.


@pytest.mark.parametrize(
    "attributes",
    [PEARSON, Attributes(7, 9, prior=0, stretched=1, off_centre=1, measure="l2")],
    ids=["plain", "other"],
)
def test_fields_and_clones_keep_the_attributes(trt: Any, attributes: Attributes) -> None:
    plugin = make_plugin(trt, attributes)
    creator, run = tensorrt_plugin.plugin_creator(), trt.TensorRTPhase.RUNTIME
    restored = creator.create_plugin("search", plugin.get_fields_to_serialize(), run)
    assert restored is not None
    assert restored.attributes == plugin.clone().attributes == attributes


@pytest.mark.parametrize("measure", ["pearson", "l2"])
def test_text_that_old_bindings_garble_is_understood(measure: Any) -> None:
    """Under NumPy 2 they repeat the first element: 'pppppppp'."""
    attributes = replace(PEARSON, measure=measure)
    garbled = {name: np.full_like(data, data[0]) for name, data in attributes.to_fields().items()}
    assert Attributes.from_fields(garbled) == attributes


class Kernel:
    """Stands in for the CUDA kernel and remembers what it was launched with."""

    def __init__(self) -> None:
        self.launched: list[dict[str, Any]] = []
        self.prepared: list[tuple[Any, ...]] = []

    def prepare(self, patch: tuple[int, int], measure: str, *, half: bool) -> None:
        self.prepared.append((patch, measure, half))

    def launch(self, **arguments: Any) -> None:
        self.launched.append(arguments)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[int, Kernel]:
    """Kernels that were opened, by device; the current device is number 3."""
    kernels: dict[int, Kernel] = {}

    def open_kernel(device: int) -> Kernel:
        assert device not in kernels, "opened twice"
        return kernels.setdefault(device, Kernel())

    monkeypatch.setattr(patch_cuda, "open_kernel", open_kernel)
    monkeypatch.setattr(tensorrt_plugin, "_current_device", lambda: 3)
    return kernels


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("attached", [True, False])
def test_enqueue_launches_the_kernel(
    trt: Any, opened: dict[int, Kernel], half: bool, attached: bool
) -> None:
    plugin = make_plugin(trt, Attributes(7, 9, prior=1, stretched=0, off_centre=1, measure="l2"))
    assert not opened
    if attached:
        plugin = plugin.attach_to_context(None)
        assert list(opened) == [3]
    image = trt.PluginTensorDesc()
    image.dims, image.type = (2, 3, 50, 70), trt.float16 if half else trt.float32
    plugin.on_shape_change([image] * 3, [])
    for stream in (70, 71):
        plugin.enqueue([image] * 3, [], [10, 11, 12], [20, 21, 22, 23], 30, stream)
    kernel = opened[3]
    assert kernel.prepared == ([((7, 9), "l2", half)] if attached else [])
    assert [launch.pop("stream") for launch in kernel.launched] == [70, 71]
    assert kernel.launched[0] == kernel.launched[1]
    assert kernel.launched[0] == {
        "x_dec": 10, "y_dec": 11, "y": 12,
        "y_syn": 20, "row": 21, "col": 22, "score": 23, "workspace": 30,
        "batch": 2, "height": 50, "width": 70, "half": half,
        "search": SearchOptions((7, 9), "l2", prior=True, stretched=False, off_centre=True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ([(1, 3, 40, 48)] * 2 + [(1, 3, 40, 50)], "of one size, not x_dec 1x3x40x48, y_dec"),
        ([(1, 1, 40, 48)] * 3, "must be N x 3 x height x width"),
        ([(1, 3, 19, 48)] * 3, "x_dec is 48x19, smaller than a patch of 24x20"),
    ],
    ids=["sizes", "channels", "small"],
)
def test_unfit_frames_are_refused_before_the_launch(
    trt: Any, caplog: pytest.LogCaptureFixture, shapes: list[tuple[int, ...]], problem: str
) -> None:
    images = [trt.PluginTensorDesc() for _ in shapes]
    for image, shape in zip(images, shapes, strict=True):
        image.dims = shape
    with pytest.raises(Exception, match=problem):
        make_plugin(trt, PEARSON).on_shape_change(images, [])
    assert problem in caplog.text


def test_without_a_driver_no_context_is_made(
    trt: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(BackendError, match="there is no CUDA driver here"):
        make_plugin(trt, PEARSON).attach_to_context(None)
    assert caplog.messages == ["there is no CUDA driver here: install NVIDIA's"]


def test_without_tensorrt_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"pip install 'dsin\[tensorrt\]'"):
        tensorrt_plugin.register_plugin.__wrapped__()


# On a GPU.


def test_the_engine_computes_the_definition(trt: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here, so engines are built but not run")
    size = (110, 150)
    x, y = textured_pair(*size, seed=4)
    plan = build(trt, parse(trt, bare()), (40, 48), size, (200, 300))
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    planes = {
        name: torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float().cuda()
        for name, image in (("x_dec", x), ("y_dec", y), ("y", y))
    }
    grid = (1, -(-size[0] // 20), -(-size[1] // 24))
    # Poisoned, so that what the kernel does not write shows.
    outputs = {
        "y_syn": torch.full((1, 3, *size), float("nan"), device="cuda"),
        "row": torch.full(grid, -7, dtype=torch.int32, device="cuda"),
        "col": torch.full(grid, -7, dtype=torch.int32, device="cuda"),
        "score": torch.full(grid, float("nan"), device="cuda"),
    }
    for name, tensor in planes.items():
        assert context.set_input_shape(name, tuple(tensor.shape))
    for name, tensor in {**planes, **outputs}.items():
        assert context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    found = {name: tensor.cpu().numpy()[0] for name, tensor in outputs.items()}
    expected = patch_correlation(x.astype(np.float32), y.astype(np.float32), y.astype(np.float32))
    score = scores_at(x, y, found["row"], found["col"])
    np.testing.assert_allclose(score, expected.score, atol=1e-5)
    np.testing.assert_allclose(found["score"], expected.score, atol=1e-4)
    matches = Matches(found["row"], found["col"], found["score"])
    y_syn = synthesise(y.astype(np.float32), matches)
    np.testing.assert_array_equal(found["y_syn"].transpose(1, 2, 0), y_syn)
