"""`dsin-export trt` with a real builder: every precision and both kinds of bundle.

The builder is that of TensorRT where it is installed, elsewhere that of `tensorrt_rtx`.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import textured_pair
from onnx import TensorProto, helper

from dsin.export import tensorrt_engine
from dsin.export.bundle_files import file_table
from dsin.export.edge.decoder import edge_decoder
from dsin.export.half_graph import read_graph, to_half
from dsin.export.int8_bundle import calibrate_bundle
from dsin.export.tensorrt_engine import BuiltEngine, Options, build_engines, profile_of
from dsin.runtime.backends import tensorrt_api
from dsin.runtime.backends.engine_files import (
    EngineFile,
    Header,
    engine_folder,
    find_engines,
    read_header,
)
from dsin.runtime.backends.tensorrt_api import Build, Network
from dsin.runtime.backends.tensorrt_plugin import register_plugin
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import BackendError, DsinError, ExportError

FRAME = (100, 150)
SHIPPED = Path(__file__).resolve().parents[2] / "runtime" / "codec" / "bundles"


@pytest.fixture
def trt(tensorrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A builder; engines go to a folder of the test."""
    monkeypatch.setenv("DSIN_ENGINES", str(tmp_path / "engines"))
    register_plugin()
    return tensorrt


def built(bundle: Path, **options: Any) -> dict[str, BuiltEngine]:
    made = build_engines(bundle, Options(**{"frame": FRAME, **options}))
    return {engine.header.graph: engine for engine in made}


@pytest.mark.parametrize(
    ("name", "padded", "precision"),
    [
        ("edge_bundle", (128, 192), "fp32"),
        ("edge_bundle", (128, 192), "fp16"),
        ("tiny_bundle", (120, 168), "fp16"),
        pytest.param("tiny_bundle", (120, 168), "fp32", marks=pytest.mark.slow),
    ],
)
def test_every_graph_of_both_kinds_is_built(
    trt: Any, request: pytest.FixtureRequest, name: str, padded: tuple[int, int], precision: Any
) -> None:
    bundle = open_bundle(request.getfixturevalue(name))
    engines = built(bundle.path, precision=precision)
    assert engines.keys() == bundle.graphs.keys()
    for graph, engine in engines.items():
        header = engine.header
        assert header.precision == ("exact" if graph in bundle.entropy_graphs else precision)
        assert header.frame == padded
        assert header.tensorrt == trt.__version__
        assert header.architecture == tensorrt_api.architecture()
        path = bundle.graph_path(graph)
        found = find_engines(path, header.precision, header.tensorrt, header.architecture)
        assert found == [EngineFile(engine.path, header)]
        assert len(found[0].read_plan()) == engine.engine_bytes > 1000


def network(path: Path, *, half: bool) -> Network:
    """A graph as `build_engines` parses it."""
    model = read_graph(path)
    if half:
        to_half(model)
    del model.functions[:]
    return Network(model.SerializeToString(), path.name)


def layers(parsed: Network) -> list[Any]:
    return [parsed.network.get_layer(i) for i in range(parsed.network.num_layers)]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_paper_decoder_has_the_plugin_in_float32_and_not_the_body(
    trt: Any, tiny_bundle: Path, half: bool
) -> None:
    parsed = network(tiny_bundle / "decoder.onnx", half=half)
    found = layers(parsed)
    (plugin,) = (layer for layer in found if layer.type == trt.LayerType.PLUGIN_V3)
    assert {plugin.get_input(i).dtype for i in range(3)} == {trt.float32}
    kinds = {layer.type for layer in found}
    # The body loops over rows of patches.
    assert not kinds & {trt.LayerType.TRIP_LIMIT, trt.LayerType.LOOP_OUTPUT}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "graph", "single"),
    [
        ("tiny_bundle", "encoder", 1), ("tiny_bundle", "decoder", 2), ("tiny_bundle", "fusion", 1),
        ("edge_bundle", "encoder", 2), ("edge_bundle", "x_decoder", 1),
        ("edge_bundle", "fusion", 0),
    ],
)  # fmt: skip
def test_convolutions_are_of_the_precision_asked_for(
    trt: Any, request: pytest.FixtureRequest, name: str, graph: str, single: int, half: bool
) -> None:
    """All in float16 but `single` of them, which yield pictures or latents; borders in float32."""
    parsed = network(request.getfixturevalue(name) / f"{graph}.onnx", half=half)
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION)
    types = [layer.get_output(0).dtype for layer in layers(parsed) if layer.type in kinds]
    assert len(types) > 2
    assert types.count(trt.float32) == (single if half else len(types))
    assert set(types) <= {trt.float32, trt.float16}
    net = parsed.network
    borders = [net.get_input(i) for i in range(net.num_inputs)]
    borders += [net.get_output(i) for i in range(net.num_outputs)]
    assert {t.dtype for t in borders} <= {trt.float32, trt.int64, trt.int32, trt.uint8}


@pytest.mark.parametrize("name", ["edge/encoder", "paper/decoder"])
def test_half_engines_of_the_shipped_networks_are_about_half_the_size(trt: Any, name: str) -> None:
    path = SHIPPED / f"{name}.onnx"
    bundle = open_bundle(path.parent)
    single, half = (
        len(parsed.build(profile_of(bundle, path.stem, parsed.shapes(), FRAME), Build()).plan)
        for parsed in (network(path, half=half) for half in (False, True))
    )
    assert 0.45 < half / single < 0.65


@pytest.mark.parametrize("graph", ["hyper", "step0", "step3"])
def test_entropy_graphs_are_float32_in_half_builds_and_without_tensorfloat(
    trt: Any, edge_bundle: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    how: dict[str, Build] = {}
    kinds: dict[str, set[Any]] = {}
    real = Network.build

    def watched(self: Network, profile: Any, build: Build) -> Any:
        name = self._what.split(".")[0]
        how[name] = build
        kinds[name] = {layer.get_output(0).dtype for layer in layers(self)}
        return real(self, profile, build)

    monkeypatch.setattr(Network, "build", watched)
    built(edge_bundle, precision="fp16")
    assert how[graph].exact
    assert trt.float16 not in kinds[graph]
    assert not how["encoder"].exact
    assert trt.float16 in kinds["encoder"]


def test_exact_switches_tensorfloat_off(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []

    class Config:
        def clear_flag(self, flag: Any) -> None:
            cleared.append(flag)

    parsed = Network(small_model("Relu").SerializeToString(), "small")
    real = parsed._builder

    class Builder:
        create_builder_config = staticmethod(Config)

        def build_serialized_network(self, *args: Any) -> bytes:
            return b""

    parsed._builder = Builder()
    parsed.build({}, Build())
    assert cleared == []
    parsed.build({}, Build(exact=True))
    assert cleared == [trt.BuilderFlag.TF32]
    parsed._builder = real


# Sizes.


def test_the_fusion_takes_all_frames_that_are_padded_alike(trt: Any, edge_bundle: Path) -> None:
    """It works on whole blocks of the frame, the other graphs on the padded frame."""
    engines = built(edge_bundle, precision="fp32")
    (low, high) = engines["fusion"].header.inputs["x_dec"]
    assert (low, high) == ((1, 3, 72, 136), (1, 3, 128, 192))
    assert engines["fusion"].header.inputs["cost"] == ((1, 1, 9, 17), (1, 1, 16, 24))
    assert engines["encoder"].header.inputs["x"] == ((1, 3, 128, 192),) * 2
    assert engines["encoder"].header.inputs["rate"] == ((1,), (1,))
    assert engines["x_decoder"].header.inputs["y_hat"] == ((1, 8, 8, 12),) * 2
    assert engines["hyper"].header.inputs["z"] == ((1, 8, 2, 3),) * 2
    assert engines["step0"].header.inputs["decoded"] == ((1, 8, 8, 12),) * 2


def test_tiny_frames_have_a_range_too(edge_bundle: Path) -> None:
    bundle = open_bundle(edge_bundle)
    profile = profile_of(bundle, "fusion", {"x_dec": (1, 3, -1, -1)}, (5, 5))
    assert profile["x_dec"] == ((1, 3, 24, 24), (1, 3, 24, 24), (1, 3, 64, 64))


# What is refused, each in one line.


def refusal(kind: type[DsinError], work: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"precision": "int8"}, "has no INT8 graphs for TensorRT: make some with dsin"),
        ({"dla": True}, "a DLA computes in float16: use --dla with --precision fp16"),
        ({"frame": (0, 100)}, "a frame must have 1 to 8192 pixels each way"),
        ({"workspace_mib": 0}, "the workspace must have at least 1 MiB"),
    ],
    ids=["int8", "dla", "frame", "workspace"],
)
def test_unfit_options_are_refused(
    edge_bundle: Path, options: dict[str, Any], problem: str
) -> None:
    assert problem in refusal(ExportError, lambda: built(edge_bundle, **options))


def test_calibrated_graphs_are_built_as_they_are(
    trt: Any, edge_bundle: Path, tmp_path: Path
) -> None:
    """In 8 bits where QuantizeLinear says so, signed and around zero; only by that name."""
    frames = [view for number in range(4) for view in textured_pair(64, 64, number)]
    calibrate_bundle(edge_bundle, frames, tmp_path / "int8", target="tensorrt")
    found = built(tmp_path / "int8", precision="int8")
    assert {engine.header.precision for engine in found.values()} == {"int8", "exact"}
    parsed = network(tmp_path / "int8" / "encoder.onnx", half=False).network
    kinds = [parsed.get_layer(i).type for i in range(parsed.num_layers)]
    convolutions = sum(kind == trt.LayerType.CONVOLUTION for kind in kinds)
    assert sum(kind == trt.LayerType.QUANTIZE for kind in kinds) >= convolutions
    whole = edge_decoder(open_bundle(tmp_path / "int8"))
    del whole.functions[:]
    decoder = layers(Network(whole.SerializeToString(), "decoder"))
    assert sum(layer.type == trt.LayerType.QUANTIZE for layer in decoder) > 5
    assert sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in decoder) == 1
    assert "build it with --precision int8" in refusal(
        ExportError, lambda: built(tmp_path / "int8", precision="fp16")
    )


def test_an_engine_is_told_in_a_line() -> None:
    header = Header(
        rules=1, graph="encoder", graph_sha256="", precision="fp16", tensorrt="10.3.0",
        architecture=87, frame=(64, 64), inputs={}, plan_sha256="",
    )  # fmt: skip
    one = BuiltEngine(Path("a.engine"), header, 1_250_000, 2.34)
    assert str(one) == "a.engine: 1.2 MB in 2.3 s"
    other = replace(one, header=replace(header, architecture=None))
    assert str(other) == f"{one}, without a GPU, so no GPU will take it"


def test_a_dla_that_is_not_there_is_refused(trt: Any, edge_bundle: Path) -> None:
    if trt.Builder(trt.Logger(trt.Logger.ERROR)).num_DLA_cores:
        pytest.skip("there is a DLA here")
    found = refusal(BackendError, lambda: built(edge_bundle, precision="fp16", dla=True))
    assert found.startswith("this machine has no DLA")


def small_model(operator: str) -> onnx.ModelProto:
    ends = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")
    )
    domain = "" if operator == "Relu" else "elsewhere"
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    graph = helper.make_graph([node], "small", [next(ends)], [next(ends)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_an_unknown_operator_is_named(trt: Any) -> None:
    model = small_model("Entangle").SerializeToString()
    found = refusal(BackendError, lambda: Network(model, "encoder.onnx of bundle mine"))
    assert found.startswith(f"TensorRT {trt.__version__} cannot take encoder.onnx of bundle mine:")
    assert "Entangle" in found


def test_a_build_that_fails_gives_tensorrts_reason(trt: Any, tiny_bundle: Path) -> None:
    """Here a profile with frames smaller than a patch, which the plugin refuses."""
    parsed = network(tiny_bundle / "decoder.onnx", half=False)
    profile = {
        name: ((1, shape[1], 1, 1) if name == "symbols" else (1, 3, 8, 8),) * 3
        for name, shape in parsed.shapes().items()
    }
    found = refusal(BackendError, lambda: parsed.build(profile, Build()))
    assert f"TensorRT {trt.__version__} cannot build decoder.onnx: " in found
    assert "no reason" not in found


def test_a_full_disk_while_building_keeps_the_old_engines(
    trt: Any, edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = built(edge_bundle, precision="fp16")
    contents = {engine.path: engine.path.read_bytes() for engine in before.values()}

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    found = refusal(DsinError, lambda: built(edge_bundle, precision="fp16"))
    assert found.endswith("No space left on device")
    assert {path: path.read_bytes() for path in contents} == contents
    folder = engine_folder(edge_bundle)
    assert set(folder.iterdir()) == set(contents)


def altered(bundle: Path, out: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a bundle, of the same name, with one graph changed."""
    copy = out / bundle.name
    shutil.copytree(bundle, copy)
    model = onnx.load(copy / f"{name}.onnx", load_external_data=False)
    change(model)
    (copy / f"{name}.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").unlink()
    manifest["files"] = file_table(copy)
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy


def entangle(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Entangle"
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))


def of_another_version(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "PatchCorrelation")
    (attribute,) = (a for a in node.attribute if a.name == "plugin_version")
    attribute.s = b"2"


@pytest.mark.parametrize(
    ("name", "graph", "change", "problem"),
    [
        ("edge_bundle", "encoder", entangle, "cannot take encoder.onnx of bundle small: "),
        (
            "tiny_bundle", "decoder", of_another_version,
            "decoder.onnx wants the plugin dsin::PatchCorrelation 2, and this dsin has 1: export",
        ),
    ],
    ids=["operator", "plugin"],
)  # fmt: skip
def test_a_graph_that_cannot_be_built_keeps_the_old_engines(
    trt: Any, request: pytest.FixtureRequest, tmp_path: Path, name: str, graph: str, change: Any,
    problem: str,
) -> None:  # fmt: skip
    bundle = request.getfixturevalue(name)
    before = built(bundle)
    kept = before[graph].path.read_bytes()
    unfit = altered(bundle, tmp_path / "altered", graph, change)
    assert problem in refusal(DsinError, lambda: built(unfit))
    assert before[graph].path.read_bytes() == kept
    assert {engine.path for engine in before.values()} == set(engine_folder(bundle).iterdir())


def test_a_gpu_without_memory_while_building_keeps_the_old_engines(
    trt: Any, edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = built(edge_bundle)
    contents = {engine.path: engine.path.read_bytes() for engine in before.values()}
    real = Network.__init__

    class Builder:
        """TensorRT's, on a GPU that is full."""

        def __init__(self, network: Network) -> None:
            self._real, self._logger = network._builder, network._reasons.logger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def build_serialized_network(self, *arguments: Any) -> None:
            reason = "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)"
            self._logger.log(trt.ILogger.ERROR, reason)
            self._logger.log(
                trt.ILogger.ERROR, "Error Code 2: OutOfMemory (no further information)"
            )

    def on_a_full_gpu(self: Network, *arguments: Any) -> None:
        real(self, *arguments)
        self._builder = Builder(self)

    monkeypatch.setattr(Network, "__init__", on_a_full_gpu)
    found = refusal(BackendError, lambda: built(edge_bundle))
    assert found.endswith(
        "(out of memory); end other programs that use the GPU, or take smaller frames"
    )
    assert {path: path.read_bytes() for path in contents} == contents
    assert set(engine_folder(edge_bundle).iterdir()) == set(contents)


def test_engines_are_built_for_the_chosen_gpu(
    edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its context is current while they are."""
    current = []

    class Gpu:
        @contextmanager
        def current(self) -> Iterator[None]:
            current.append(True)
            yield
            current.pop()

    monkeypatch.setattr(tensorrt_api, "architecture", lambda: 87)
    monkeypatch.setattr(tensorrt_engine, "architecture", lambda: 87)
    monkeypatch.setattr(tensorrt_engine, "register_plugin", lambda: None)
    monkeypatch.setattr("dsin.runtime.gpu.cuda_driver.chosen_device", Gpu)
    monkeypatch.setattr(
        tensorrt_engine, "_build", lambda bundle, name, *rest: (name, list(current))
    )
    made: Any = build_engines(edge_bundle, Options())
    assert {name for name, _ in made} == open_bundle(edge_bundle).graphs.keys()
    assert all(seen == [True] for _, seen in made)
    assert current == []


def test_workspace_and_timing_cache_are_passed_on(
    trt: Any, edge_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Build] = []
    real = Network.build

    def watched(self: Network, profile: Any, how: Build) -> Any:
        seen.append(how)
        return real(self, profile, how)

    monkeypatch.setattr(Network, "build", watched)
    cache = tmp_path / "timing.cache"
    built(edge_bundle, precision="fp16", workspace_mib=64, timing_cache=cache)
    assert {how.workspace_mib for how in seen} == {64}
    assert seen[0].timing_cache == b""
    assert cache.read_bytes() == seen[-1].timing_cache != b""


class Config:
    """Refuses a timing cache in one of two ways. TensorRT for RTX takes whatever it is given."""

    def __init__(self, made: object) -> None:
        self.made = made

    def create_timing_cache(self, data: bytes) -> object:
        return self.made

    def set_timing_cache(self, cache: object, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return False


@pytest.mark.parametrize("made", [None, object()], ids=["not made", "of another GPU"])
def test_a_timing_cache_of_no_use_is_refused(trt: Any, made: object) -> None:
    found = refusal(BackendError, lambda: tensorrt_api._timing_cache(Config(made), b"measured"))
    assert "does not take this timing cache: delete it" in found


def test_an_unreadable_timing_cache_is_refused(trt: Any, edge_bundle: Path, tmp_path: Path) -> None:
    found = refusal(BackendError, lambda: built(edge_bundle, timing_cache=tmp_path))
    assert found == f"cannot read {tmp_path}: Is a directory"


# The command.


def command(
    tensorrt: Any, *arguments: object, code: str = ""
) -> "subprocess.CompletedProcess[str]":
    """`dsin-export` in a process of its own, with the builder in its path."""
    script = f"import sys\nfrom dsin.export.cli import main\n{code}\nmain()"
    folder = str(Path(tensorrt.__file__).parents[1])
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip


LIST_MODULES = """
import atexit
loaded = lambda: {name.split(".")[0] for name in sys.modules}
atexit.register(lambda: print("loaded", *sorted(loaded() & {"torch", "lightning", "onnx"})))
"""


def test_the_command_builds_without_torch(trt: Any, edge_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(
        trt, "trt", edge_bundle, "--precision", "fp16", "--frame", "100x150", "-o", out,
        code=LIST_MODULES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "loaded onnx"
    if tensorrt_api.architecture() is None:
        assert all("without a GPU, so no GPU will take it" in line for line in lines[:-1])
    engines = list(engine_folder(edge_bundle, out).iterdir())
    assert len(lines) == 1 + len(engines) == 1 + 8
    assert {read_header(path).frame for path in engines} == {(128, 192)}


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (("--precision", "int8"), 1, "has no INT8 graphs for TensorRT"),
        (("--precision", "fp64"), 2, "fp64"),
        (("--precision", "fp16", "--frame", "12"), 2, "is not HEIGHTxWIDTH"),
    ],
    ids=["int8", "unknown", "frame"],
)
def test_what_the_command_refuses(
    trt: Any, edge_bundle: Path, arguments: tuple[str, ...], status: int, problem: str
) -> None:
    done = command(trt, "trt", edge_bundle, *arguments)
    assert done.returncode == status
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert status == 2 or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("onnx", "onnx is missing: pip install 'dsin[tensorrt]'"),
        ("tensorrt", "tensorrt is not installed: pip install 'dsin[tensorrt]'"),
    ],
)
def test_what_is_not_installed_is_named(
    trt: Any, edge_bundle: Path, missing: str, problem: str
) -> None:
    done = command(
        trt, "trt", edge_bundle, "--precision", "fp32", code=f"sys.modules[{missing!r}] = None"
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"dsin-export: {problem}")
    assert len(done.stderr.splitlines()) == 1


def test_entropy_graphs_are_all_exact() -> None:
    assert open_bundle("paper").entropy_graphs == ("context",)
    assert open_bundle("edge").entropy_graphs == ("hyper", "step0", "step1", "step2", "step3")


# On a GPU.


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["tiny_bundle", "edge_bundle"])
def test_engines_code_and_decode_as_the_cpu_does(
    trt: Any, request: pytest.FixtureRequest, name: str, precision: Any
) -> None:
    if tensorrt_api.architecture() is None:
        pytest.skip("there is no GPU here, so engines are built but not run")
    bundle: Path = request.getfixturevalue(name)
    built(bundle, precision=precision)
    backend: Any = "tensorrt" if precision == "fp32" else "tensorrt-fp16"
    left, right = textured_pair(*FRAME, seed=2)
    with Encoder(bundle, backend) as encoder, Decoder(bundle, backend) as decoder:
        packet = encoder.encode(left)
        picture = decoder.decode(packet, right).image
    with Decoder(bundle) as decoder:
        # The same integers on both: else the picture would fall to pieces.
        on_cpu = decoder.decode(packet, right).image
    difference = on_cpu.astype(float) - picture.astype(float)
    assert np.sqrt((difference**2).mean()) < 1
