"""Engines of a bundle's graphs, built where they will run: `dsin-export trt`.

    *.onnx ─► weights inside ─► (float16 written into the graph) ─► TensorRT ─► *.engine

Needs onnx and TensorRT, and neither torch nor onnxruntime. The graphs of entropy models are built
in float32 without TensorFloat-32 whatever the precision: their integers have to be exact.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from dsin.export.half_graph import read_graph, to_half
from dsin.runtime.backends.engine_files import (
    RULES,
    Header,
    Precision,
    engine_folder,
    graph_digest,
    write_engine,
)
from dsin.runtime.backends.plugin_fields import NAME
from dsin.runtime.backends.tensorrt_api import (
    Build,
    Network,
    Profile,
    Shape,
    architecture,
    check_dla,
    chosen_gpu,
    version,
)
from dsin.runtime.backends.tensorrt_plugin import NAMESPACE, register_plugin
from dsin.runtime.backends.tensorrt_plugin import VERSION as PLUGIN_VERSION
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.side_fusion import least_size
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.errors import BackendError, ExportError
from dsin.runtime.files import write_bytes_atomically
from dsin.runtime.patch_correlation.block_refinement import BLOCK
from dsin.runtime.pictures import padded_size

KITTI = (375, 1242)
"""Height and width of most KITTI frames: what engines are for unless something else is asked."""
LARGEST = 8192
"""Pixels of a frame's side."""


@dataclass(frozen=True)
class Options:
    """`frame` is height and width of the pictures; engines serve all frames that are padded to the
    same size. `workspace_mib` bounds what one layer may use on the GPU (None: all of it)."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    frame: tuple[int, int] = KITTI
    dla: bool = False
    workspace_mib: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """One engine on disk: `engine_bytes` of it, and the seconds that TensorRT took."""

    path: Path
    header: Header
    engine_bytes: int
    seconds: float

    def __str__(self) -> str:
        size = f"{self.path}: {self.engine_bytes / 1e6:.1f} MB in {self.seconds:.1f} s"
        if self.header.architecture is None:
            return f"{size}, without a GPU, so no GPU will take it"
        return size


def build_engines(
    bundle: Path | str,
    options: Options,
    output: Path | None = None,
    *,
    report: Callable[[BuiltEngine], None] = lambda built: None,
) -> list[BuiltEngine]:
    """Build all engines of a bundle directory or a shipped bundle, into a folder of the bundle's
    name in `output`, by default where the runtime looks (`engine_folder`). `report` gets each when
    it is there.

    Raises BundleError for the bundle, ExportError for options or a graph that cannot be built,
    BackendError for TensorRT, DsinError where a file cannot be written; engines that were there
    before stay.
    """
    opened = open_bundle(bundle)
    _check(options, opened)
    register_plugin()
    folder, gpu = engine_folder(opened.path, output), architecture()
    done = []
    with chosen_gpu():
        if options.dla:
            check_dla()
        for name in opened.graphs:
            built = _build(opened, name, options, folder, gpu)
            report(built)
            done.append(built)
    return done


def profile_of(
    bundle: Bundle, name: str, shapes: dict[str, Shape], frame: tuple[int, int]
) -> Profile:
    """Smallest, usual and largest shape of every input, for frames of that height and width.

    All graphs work on the padded frame, but one: the `edge` fusion sees only whole blocks, so its
    range has all frames that are padded to the same size.
    """
    largest = padded_size(frame[0], frame[1], bundle.frame_multiple)
    sizes = (largest,) * 3
    if name == "fusion" and bundle.family == "edge":
        least = least_size(bundle.search)
        smallest = [
            max(side - multiple + BLOCK, low)
            for side, multiple, low in zip(largest, bundle.frame_multiple, least, strict=True)
        ]
        usual = [
            max(side, low)
            for side, low in zip(padded_size(*frame, (BLOCK, BLOCK)), least, strict=True)
        ]
        sizes = ((smallest[0], smallest[1]), (usual[0], usual[1]), largest)
    return {
        key: tuple(_shape(bundle, name, key, shape, size) for size in sizes)  # type: ignore[misc]
        for key, shape in shapes.items()
    }


def _shape(bundle: Bundle, graph: str, name: str, shape: Shape, size: tuple[int, int]) -> Shape:
    if len(shape) != 4:
        return shape
    stride = _stride(bundle, graph, name)
    channels = bundle.channels if shape[1] < 0 else shape[1]
    return 1, channels, size[0] // stride, size[1] // stride


def _stride(bundle: Bundle, graph: str, name: str) -> int:
    """Pixels per position of an input, each way."""
    if graph == "hyper":
        return bundle.stride * HYPER_STRIDE
    if name in ("symbols", "y_hat", "decoded") or graph.startswith("step"):
        return bundle.stride
    return BLOCK if name in ("features", "cost", "doubt") else 1


def _check(options: Options, bundle: Bundle) -> None:
    calibration, name = bundle.training.get("calibration"), bundle.path.name
    target = calibration.get("target") if isinstance(calibration, dict) else None
    if options.precision == "int8" and target != "tensorrt":
        raise ExportError(
            f"bundle {name} has no INT8 graphs for TensorRT: make some with dsin calibrate "
            "--target tensorrt, or build with --precision fp16"
        )
    if options.precision != "int8" and target is not None:
        raise ExportError(f"bundle {name} has 8-bit networks: build it with --precision int8")
    if options.dla and options.precision != "fp16":
        raise ExportError("a DLA computes in float16: use --dla with --precision fp16")
    if not all(side in range(1, LARGEST + 1) for side in options.frame):
        raise ExportError(f"a frame must have 1 to {LARGEST} pixels each way")
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise ExportError("the workspace must have at least 1 MiB")


def _build(
    bundle: Bundle, name: str, options: Options, folder: Path, gpu: int | None
) -> BuiltEngine:
    path, exact = bundle.graph_path(name), name in bundle.entropy_graphs
    digest = graph_digest(path)
    model = read_graph(path)
    if options.precision == "fp16" and not exact:
        to_half(model)
    _check_plugins(model, path)
    # What is left of PatchCorrelation is the node, so the parser takes the plugin.
    del model.functions[:]
    network = Network(model.SerializeToString(), f"{path.name} of bundle {bundle.path.name}")
    profile = profile_of(bundle, name, network.shapes(), options.frame)
    how = Build(
        exact=exact,
        workspace_mib=options.workspace_mib,
        timing_cache=_read_cache(options.timing_cache),
        # It computes in float16 only.
        dla=options.dla and not exact,
    )
    began = time.perf_counter()
    built = network.build(profile, how)
    seconds = time.perf_counter() - began
    precision: Precision = "exact" if exact else options.precision
    header = Header(
        rules=RULES,
        graph=path.stem,
        graph_sha256=digest,
        precision=precision,
        tensorrt=version(),
        architecture=gpu,
        frame=padded_size(*options.frame, bundle.frame_multiple),
        inputs={key: (low, high) for key, (low, _, high) in profile.items()},
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
    )
    written = write_engine(folder, header, built.plan)
    if options.timing_cache is not None and built.timing_cache is not None:
        write_bytes_atomically(options.timing_cache, built.timing_cache)
    return BuiltEngine(written, header, len(built.plan), seconds)


def _check_plugins(model: onnx.ModelProto, path: Path) -> None:
    """Raise ExportError where a node wants another plugin than there is: the parser would only say
    that there is none."""
    for node in model.graph.node:
        if node.domain != NAMESPACE or node.op_type != NAME:
            continue
        given = {attribute.name: attribute for attribute in node.attribute}
        wanted = (
            given["plugin_version"].s.decode() if "plugin_version" in given else "of no version"
        )
        if wanted != PLUGIN_VERSION:
            raise ExportError(
                f"{path} wants the plugin {NAMESPACE}::{NAME} {wanted}, and this dsin has "
                f"{PLUGIN_VERSION}: export the model anew, or install the dsin that exported it"
            )


def _read_cache(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror}") from error
