"""TensorRT engines as files that say what they are for.

An engine serves one TensorRT, one kind of GPU and one range of frame sizes, and TensorRT reports a
wrong one late or not at all. So each file begins with what it was built from and for:

    8 bytes    "dsin trt"
    4 bytes    length of the header, little-endian, at most 64 KiB
    header     UTF-8 JSON, the fields of `Header`
    the rest   the engine as TensorRT serialises it

Files lie in $DSIN_ENGINES, by default $XDG_CACHE_HOME/dsin/engines (~/.cache/dsin/engines), in a
folder for each bundle; not in the bundle, whose files are listed and hashed. A name has graph,
precision, frame size, TensorRT, GPU and the graph's hash, so engines of several kinds lie side by
side; what counts is the header.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dsin.runtime.backends.onnx_weight_files import weight_files
from dsin.runtime.caches import cache_folder
from dsin.runtime.errors import BackendError, BundleError
from dsin.runtime.files import write_bytes_atomically
from dsin.runtime.manifest import check_plain_name

Precision = Literal["fp32", "fp16", "int8", "exact"]
"""`int8` are graphs that were calibrated; `exact` are the graphs of entropy models: float32 and
nothing rounded, in every build."""

MAGIC = b"dsin trt"
RULES = 1
"""Version of how engines are built: it counts up when the same graph gives another engine."""
MAX_HEADER_BYTES = 2**16

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """`graph` is the stem of the ONNX file and `graph_sha256` its `graph_digest`; `architecture` is
    the GPU's compute capability such as 87, or None where the build saw no GPU; `frame` is height
    and width in pixels as padded; `inputs` has each input's smallest and largest shape."""

    rules: int
    graph: str
    graph_sha256: str
    precision: Precision
    tensorrt: str
    architecture: int | None
    frame: tuple[int, int]
    inputs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    plan_sha256: str

    def takes(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether inputs of these shapes are within the range."""
        return shapes.keys() == self.inputs.keys() and all(
            len(low) == len(shapes[name])
            and all(a <= n <= b for a, n, b in zip(low, shapes[name], high, strict=True))
            for name, (low, high) in self.inputs.items()
        )

    @property
    def file_name(self) -> str:
        """What the file is called."""
        height, width = self.frame
        gpu = "none" if self.architecture is None else str(self.architecture)
        return (
            f"{self.graph}-{self.precision}-{height}x{width}-trt{self.tensorrt}-sm{gpu}-"
            f"{self.graph_sha256[:12]}.engine"
        )


@dataclass(frozen=True)
class EngineFile:
    """A file whose header was read; its engine was not yet."""

    path: Path
    header: Header

    def read_plan(self) -> bytes:
        """The engine as TensorRT serialised it. Raises BackendError where it was altered."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise BackendError(f"cannot read {self.path}: {error.strerror}") from error
        plan = data[_plan_start(data) :]
        if hashlib.sha256(plan).hexdigest() != self.header.plan_sha256:
            raise BackendError(
                f"{self.path} is damaged: delete it and rebuild with dsin-export trt"
            )
        return plan


def engine_folder(bundle: Path, root: Path | None = None) -> Path:
    """Where the engines of a bundle directory lie, below `root` or where the runtime looks."""
    chosen = root or os.environ.get("DSIN_ENGINES") or cache_folder() / "engines"
    return Path(chosen) / bundle.resolve().name


def graph_digest(path: Path) -> str:
    """sha256 over an ONNX file and the files that its weights are in.

    Raises BundleError where one of them cannot be read or lies elsewhere.
    """
    try:
        model = path.read_bytes()
        digest = hashlib.sha256(model)
        for name in sorted(weight_files(model)):
            check_plain_name(name, str(path))
            digest.update(hashlib.sha256((path.parent / name).read_bytes()).digest())
    except OSError as error:
        raise BundleError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()


def write_engine(folder: Path, header: Header, plan: bytes) -> Path:
    """Write an engine into a folder, which is made; an engine of that name is replaced at the end.

    Raises DsinError where it cannot be written, as on a full disk; then the old one stays.
    """
    path = folder / header.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"cannot make {folder}: {error.strerror}") from error
    text = json.dumps(asdict(header)).encode()
    write_bytes_atomically(path, b"".join((MAGIC, _LENGTH.pack(len(text)), text, plan)))
    return path


def read_header(path: Path) -> Header:
    """The header of an engine's file. Raises BackendError for a file of another kind."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC) + _LENGTH.size)
            text = file.read(_plan_start(start) - len(start))
        return _header(json.loads(text))
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BackendError(
            f"{path} is not an engine of dsin, or is damaged: delete it and rebuild with "
            "dsin-export trt"
        ) from error


def find_engines(
    graph: Path, precision: Precision, tensorrt: str, architecture: int | None
) -> list[EngineFile]:
    """All engines of an ONNX file for this TensorRT and GPU, of any frame size.

    Raises BackendError, which says what does not fit and how to rebuild, where there are none.
    """
    folder, name, digest = engine_folder(graph.parent), graph.stem, graph_digest(graph)
    files = [
        EngineFile(path, read_header(path))
        for path in sorted(folder.glob("*.engine"))
        if path.name.startswith(f"{name}-")
    ]
    if not files:
        raise BackendError(
            f"there is no engine of {graph} in {folder}: {build_command(graph, precision)}"
        )
    here = "no GPU" if architecture is None else f"sm_{architecture}"
    checks: list[tuple[Callable[[Header], object], object, str]] = [
        (lambda h: h.rules, RULES, "was built by another version of dsin"),
        (lambda h: h.graph_sha256, digest, "was built from another export of the graph"),
        (lambda h: h.precision, precision, f"is of {{0}}, not {precision}{_wanted_by(precision)}"),
        (lambda h: h.tensorrt, tensorrt, "is of TensorRT {0}, and here is " + tensorrt),
        (lambda h: h.architecture, architecture, "is for {0}, and here is " + here),
    ]
    for fact, wanted, problem in checks:
        fitting = [file for file in files if fact(file.header) == wanted]
        if not fitting:
            found = ", ".join(sorted({_shown(fact(file.header)) for file in files}))
            cure = f"re{build_command(graph, precision)}"
            raise BackendError(f"the engine of {graph} {problem.format(found)}: {cure}")
        files = fitting
    return files


def _shown(fact: object) -> str:
    if fact is None:
        return "a machine without a GPU"
    return f"sm_{fact}" if isinstance(fact, int) else str(fact)


def _wanted_by(precision: Precision) -> str:
    names = {"fp32": "tensorrt", "fp16": "tensorrt-fp16", "int8": "tensorrt-int8"}
    return f", which --backend {names[precision]} wants" if precision in names else ""


def build_command(graph: Path, precision: Precision) -> str:
    """What to do where an engine of an ONNX file is missing: "build with dsin-export trt …"."""
    chosen = "fp32" if precision == "exact" else precision
    return f"build with dsin-export trt {graph.parent} --precision {chosen}"


def _plan_start(data: bytes) -> int:
    """Where the engine begins. Raises ValueError for a file of another kind."""
    at = len(MAGIC)
    if data[:at] != MAGIC or len(data) < at + _LENGTH.size:
        raise ValueError("no magic")
    (length,) = _LENGTH.unpack_from(data, at)
    if length > MAX_HEADER_BYTES:
        raise ValueError("header too long")
    return int(at + _LENGTH.size + length)


def _header(data: Any) -> Header:
    """Raises ValueError, TypeError or KeyError for anything else than a header."""
    if not isinstance(data, dict) or data.keys() != {field.name for field in fields(Header)}:
        raise ValueError("not the fields of a header")
    texts = ("graph", "graph_sha256", "precision", "tensorrt", "plan_sha256")
    if any(not isinstance(data[name], str) for name in texts):
        raise ValueError("not a text")
    if not isinstance(data["rules"], int) or not isinstance(data["architecture"], int | None):
        raise ValueError("not a number")
    if not isinstance(data["inputs"], dict):
        raise ValueError("not inputs by name")
    height, width = map(_whole, data["frame"])
    inputs = {
        name: (tuple(map(_whole, low)), tuple(map(_whole, high)))
        for name, (low, high) in data["inputs"].items()
    }
    return Header(**{**data, "frame": (height, width), "inputs": inputs})


def _whole(value: object) -> int:
    """The number itself. Raises ValueError for anything else than a whole one."""
    if not isinstance(value, int):
        raise ValueError("not a whole number")
    return value
