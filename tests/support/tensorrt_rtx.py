"""A `tensorrt` that builds engines on a machine without a GPU.

NVIDIA publishes the Python module on the package index (`tensorrt_bindings`), but not the libraries
that it needs. TensorRT-RTX is published whole, inside a plugin of onnxruntime, and has the same C
entry points. `lay_out` puts links to both into one folder:

    tensorrt/ __init__.py, tensorrt.so, plugin/   from tensorrt_bindings
              libnvinfer.so.11                    libtensorrt_rtx.so of the onnxruntime plugin
              libnvonnxparser.so.11               libtensorrt_onnxparser_rtx.so of the same
              libnvinfer_plugin.so.11             made here: one function that does nothing
              libtensorrt_rtx.so                  as the parser asks for it when it meets a plugin

The module looks for libraries in its own folder first (its RPATH is $ORIGIN), so nothing has to be
preloaded. Networks are parsed, checked, compiled and serialised for real, and Python plugins take
part; without a GPU, engines are neither loaded nor run. In a subprocess, PYTHONPATH=folder does.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

_BINDINGS = "tensorrt_bindings"
_BINDINGS_WHEEL = "tensorrt-cu13-bindings"
_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_COMPILER = "ziglang"
_NO_PLUGINS = "_Bool initLibNvInferPlugins(void *logger, const char *names) { return 1; }\n"


def load(folder: Path) -> Any:
    """TensorRT: this machine's own, or else one laid out in the empty directory `folder`.

    Skips the test where the wheels for that are missing, as they are on aarch64.
    """
    if importlib.util.find_spec("tensorrt") is None:
        lay_out(folder)
        sys.path.insert(0, str(folder))
    import tensorrt

    return tensorrt


def lay_out(folder: Path) -> None:
    """Make a package `tensorrt` in the empty directory `folder`; skips without the wheels."""
    package = folder / "tensorrt"
    package.mkdir()
    for file in _installed(_BINDINGS).iterdir():
        if file.name != "__pycache__":
            (package / file.name).symlink_to(file)
    major = version(_BINDINGS_WHEEL).split(".")[0]
    for link, pattern in (
        (f"libnvinfer.so.{major}", "libtensorrt_rtx.so.*"),
        ("libtensorrt_rtx.so", "libtensorrt_rtx.so.*"),
        (f"libnvonnxparser.so.{major}", "libtensorrt_onnxparser_rtx.so.*"),
    ):
        library, *_ = (f for f in _installed(_LIBRARIES).glob(pattern) if not f.is_symlink())
        (package / link).symlink_to(library)
    _compile(_NO_PLUGINS, package / f"libnvinfer_plugin.so.{major}")


def _compile(source: str, library: Path) -> None:
    """C to a shared library: no compiler or C library of the machine is needed, but where ziglang
    is not installed, the machine's own compiler does as well."""
    compiler = [sys.executable, "-m", _COMPILER, "cc"]
    if importlib.util.find_spec(_COMPILER) is None:
        if shutil.which("cc") is None:
            pytest.skip(f"there is no compiler: pip install {_COMPILER}")
        compiler = ["cc", "-fPIC"]
    code = library.with_suffix(".c")
    code.write_text(source)
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(library.parent))
    subprocess.run(
        [*compiler, "-shared", "-nostdlib", "-o", library, code],
        env={**os.environ, **caches},
        check=True,
    )


def _installed(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed: on x86-64 Linux, pip install 'dsin[test]'")
    return Path(spec.submodule_search_locations[0])


@dataclass
class Parsed:
    """A network, what it came from (which must outlive it), and what the parser had to say."""

    builder: Any
    parser: Any
    network: Any
    errors: list[str]

    def kinds(self) -> list[Any]:
        return [self.network.get_layer(i).type for i in range(self.network.num_layers)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        outputs = [self.network.get_output(i) for i in range(self.network.num_outputs)]
        return {output.name: tuple(output.shape) for output in outputs}

    def types(self) -> dict[str, Any]:
        outputs = [self.network.get_output(i) for i in range(self.network.num_outputs)]
        return {output.name: output.dtype for output in outputs}


def parse(trt: Any, model: bytes, path: Path | None = None) -> Parsed:
    """Parse into a strongly typed network; `path` says where external weights lie."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parser.parse(model, str(path) if path else None)
    errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    return Parsed(builder, parser, network, errors)


def build(trt: Any, parsed: Parsed, *sizes: tuple[int, int]) -> bytes | None:
    """Engine bytes, or None. `sizes` are height and width: smallest, usual and largest."""
    config = parsed.builder.create_builder_config()
    if sizes:
        profile = parsed.builder.create_optimization_profile()
        for i in range(parsed.network.num_inputs):
            tensor = parsed.network.get_input(i)
            # The decoder's symbols are at an eighth of the resolution.
            stride = 8 if tensor.name == "symbols" else 1
            shapes = [(*tuple(tensor.shape)[:2], h // stride, w // stride) for h, w in sizes]
            profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    return None if plan is None else bytes(plan)
