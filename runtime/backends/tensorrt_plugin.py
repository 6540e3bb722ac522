"""PatchCorrelation as a TensorRT plugin: namespace `dsin`, version `1`.

    x_dec, y_dec, y  float32 or float16 (N, 3, H, W)  ─►  y_syn     of the inputs' type and shape
                                                          row, col  int32   (N, ⌈H/ph⌉, ⌈W/pw⌉)
                                                          score     float32 (N, ⌈H/ph⌉, ⌈W/pw⌉)

`register_plugin` makes it known to a process that builds engines or runs them. The attributes of
the ONNX node become fields of the engine; the work is done by
`dsin.runtime.patch_correlation.patch_cuda`, on the addresses and the stream that TensorRT passes.

Parsing. The node also has a portable body. Parsers up to 10.1 at least prefer the body to the
plugin, and all parsers turn to it, without a word, where the plugin is not registered. So drop the
model's local functions before parsing (`del model.functions[:]`, as dsin.export.tensorrt_engine
does): that leaves them nothing but the plugin.

Errors. TensorRT calls the plugin from C++ and passes no exception on: the call into TensorRT
returns None or False, and its own message does not say why. So what the user can put right is
reported through `logging`, under the name of this module.

Nothing here is newer than TensorRT 10.3.
"""

import ctypes
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.plugin_fields import NAME, Attributes
from dsin.runtime.backends.tensorrt_api import tensorrt as _tensorrt
from dsin.runtime.errors import BackendError, BundleError, DsinError, FrameError
from dsin.runtime.patch_correlation import patch_cuda
from dsin.runtime.patch_correlation.definition import check_extent

NAMESPACE = "dsin"
VERSION = "1"
INPUTS = ("x_dec", "y_dec", "y")

_LOG = logging.getLogger(__name__)


@contextmanager
def _reported() -> Iterator[None]:
    """Log what the user can put right: TensorRT does not pass it on."""
    try:
        yield
    except DsinError as error:
        _LOG.error("%s", error)
        raise


class _Plugin:
    """Core, build and runtime capability in one. TensorRT's base classes join it below."""

    def __init__(self, attributes: Attributes) -> None:
        for base in _plugin_bases():
            base.__init__(self)
        self.plugin_name = NAME
        self.plugin_version = VERSION
        self.plugin_namespace = NAMESPACE
        self.num_outputs = 4
        self.attributes = attributes
        self._kernel: patch_cuda.PatchCorrelationKernel | None = None
        # TensorRT reads the fields by address, so they have to live as long as the plugin.
        self._fields = attributes.to_fields()
        self._serialised = _field_collection(self._fields)

    def get_capability_interface(self, kind: Any) -> "_Plugin":
        """This object, for every kind."""
        return self

    def clone(self) -> "_Plugin":
        """A plugin with the same attributes."""
        return type(self)(self.attributes)

    # Build.

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        """Of y_syn, row, col and score."""
        trt = _tensorrt()
        return [input_types[0], trt.int32, trt.int32, trt.float32]

    @_reported()
    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, expressions: Any) -> Any:
        """Of y_syn, row, col and score, as expressions of the inputs' dimensions."""
        trt = _tensorrt()
        if any(len(shape) != 4 for shape in inputs):
            raise BundleError(f"{NAME} needs inputs of shape (N, 3, H, W)")
        grid = trt.DimsExprs(3)
        grid[0] = inputs[0][0]
        for axis, step in enumerate(self.attributes.search.patch, 1):
            grid[axis] = expressions.operation(
                trt.DimensionOperation.CEIL_DIV, inputs[0][axis + 1], expressions.constant(step)
            )
        return [trt.DimsExprs(inputs[2]), grid, trt.DimsExprs(grid), trt.DimsExprs(grid)]

    def supports_format_combination(
        self, position: int, tensors: Sequence[Any], num_inputs: int
    ) -> bool:
        """Linear tensors only; images all of one type."""
        trt = _tensorrt()
        tensor, image_type = tensors[position].desc, tensors[0].desc.type
        allowed = [
            [trt.float32, trt.float16], [image_type], [image_type],
            [image_type], [trt.int32], [trt.int32], [trt.float32],
        ]  # fmt: skip
        return tensor.format == trt.TensorFormat.LINEAR and tensor.type in allowed[position]

    @_reported()
    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Raise FrameError where the profile admits frames that are smaller than a patch."""
        patch = self.attributes.search.patch
        for name, tensor in zip(INPUTS, inputs, strict=True):
            check_extent(f"the smallest {name} of the profile", tuple(tensor.min)[2:], patch)

    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        """Bytes for the largest frames of the profile."""
        batch, _, height, width = map(int, inputs[0].max)
        return patch_cuda.workspace_bytes(batch, height, width, self.attributes.search.patch)

    # Run.

    def get_fields_to_serialize(self) -> Any:
        """What `create_plugin` gets when the engine is loaded."""
        return self._serialised

    def set_tactic(self, tactic: int) -> None:
        """There is but one."""

    @_reported()
    def attach_to_context(self, context: Any) -> "_Plugin":
        """A clone with the GPU opened."""
        attached = self.clone()
        attached._kernel = patch_cuda.open_kernel(_current_device())
        return attached

    @_reported()
    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Load the code. Raise FrameError where the images differ in size, have no 3 channels or no
        patch."""
        shapes = [tuple(tensor.dims) for tensor in inputs]
        if len(set(shapes)) != 1 or shapes[0][1] != 3:
            listed = ", ".join(
                f"{name} {'x'.join(map(str, shape))}"
                for name, shape in zip(INPUTS, shapes, strict=True)
            )
            raise FrameError(f"images must be N x 3 x height x width and of one size, not {listed}")
        check_extent("x_dec", shapes[0][2:], self.attributes.search.patch)
        if self._kernel is not None:
            # Later, while a CUDA graph is captured, nothing can be loaded.
            half = inputs[0].type == _tensorrt().float16
            self._kernel.prepare(self.attributes.search.patch, self.attributes.measure, half=half)

    @_reported()
    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        """Launch the kernel on device addresses, in the stream; returns at once."""
        if self._kernel is None:
            self._kernel = patch_cuda.open_kernel(_current_device())
        batch, _, height, width = input_desc[0].dims
        x_dec, y_dec, y = inputs
        y_syn, row, col, score = outputs
        self._kernel.launch(
            x_dec=x_dec,
            y_dec=y_dec,
            y=y,
            y_syn=y_syn,
            row=row,
            col=col,
            score=score,
            workspace=workspace,
            batch=batch,
            height=height,
            width=width,
            half=input_desc[0].type == _tensorrt().float16,
            search=self.attributes.search,
            stream=stream,
        )


class _Creator:
    """Makes plugins from the fields of an ONNX node or of an engine."""

    def __init__(self) -> None:
        _tensorrt().IPluginCreatorV3One.__init__(self)
        self.name = NAME
        self.plugin_version = VERSION
        self.plugin_namespace = NAMESPACE
        # Names and types only: the parser fills in what the node has.
        example = Attributes(1, 1, 0, 0, 0, "pearson")
        self._fields = {name: data[:0] for name, data in example.to_fields().items()}
        self.field_names = _field_collection(self._fields)

    def create_plugin(self, name: str, fields: Iterable[Any], phase: Any) -> "_Plugin | None":
        """A plugin, or None, with the reason logged, where the attributes are unusable."""
        try:
            given = {field.name: np.asarray(field.data) for field in fields}
            return _plugin_class()(Attributes.from_fields(given))
        except BundleError as error:
            _LOG.error("%s", error)
            return None


def _plugin_bases() -> tuple[Any, ...]:
    trt = _tensorrt()
    return trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime


@cache
def _plugin_class() -> type[_Plugin]:
    return type("PatchCorrelationPlugin", (_Plugin, *_plugin_bases()), {})


@cache
def plugin_creator() -> _Creator:
    """The creator of this process. The cache keeps it alive, which TensorRT does not."""
    bases = (_Creator, _tensorrt().IPluginCreatorV3One)
    creator: _Creator = type("PatchCorrelationCreator", bases, {})()
    return creator


@cache
def register_plugin() -> None:
    """Make the plugin known to TensorRT, for building engines with it and for loading them.

    Raises BackendError where TensorRT is not installed, or knows another plugin of this name.
    """
    if not _tensorrt().get_plugin_registry().register_creator(plugin_creator(), NAMESPACE):
        raise BackendError(
            f"TensorRT has another plugin {NAMESPACE}::{NAME} {VERSION}: do not load it as well"
        )


def _field_collection(fields: Mapping[str, npt.NDArray[Any]]) -> Any:
    trt = _tensorrt()
    kinds = {"i4": trt.PluginFieldType.INT32, "i1": trt.PluginFieldType.CHAR}
    return trt.PluginFieldCollection(
        [trt.PluginField(name, data, kinds[data.dtype.str[1:]]) for name, data in fields.items()]
    )


def _current_device() -> int:
    """Index of the GPU whose context TensorRT has made current in this thread."""
    device = ctypes.c_int(-1)
    try:
        status = ctypes.CDLL("libcuda.so.1").cuCtxGetDevice(ctypes.byref(device))
    except OSError as error:
        raise BackendError("there is no CUDA driver here: install NVIDIA's") from error
    if status:
        raise BackendError(f"there is no current CUDA context (cuCtxGetDevice says {status})")
    return device.value
