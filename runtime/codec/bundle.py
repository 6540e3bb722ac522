"""A bundle: the directory that holds one exported model. Read here, written by dsin.export.

    bundle.json       manifest, UTF-8 JSON, at most 1 MiB
    *.onnx            graphs, opset 18, batch 1, any height and width that fit `frame_multiple`
    *.weights         external weights of the graphs
    *.npz             tables of the entropy model: a zip of .npy arrays of integers, at most 16 MiB
                      unpacked
    X.int8.npz        of the same kind: a recipe, by which X.weights, the external weights of float
                      graphs, yields X.int8.weights, those of 8-bit graphs, which then need not be
                      stored (dsin.runtime.backends.derived_weights)

Format 1 has the causal context model (dsin.runtime.entropy.context_model), format 2 the hyperprior
(dsin.runtime.entropy.hyper_codec). Keys of the manifest; all are required but `preset`, `training`
and `weights_licence`:

    format            1 or 2
    model             name of the model
    preset            sizes and options that it was trained with (free form, for information)
    channels          C, channels of the latent, 1 to 1024
    centers           (format 1) L, number of centres, 2 to 256: symbols are 0 to L - 1
    stride            pixels per position of the latent, each way
    frame_multiple    [height, width]: frames are padded to multiples of these
    search            {"patch": [height, width], "measure": "pearson" or "l2", "prior": bool,
                      "stretched_patches": bool, "off_centre_prior": bool}; in format 2 "flow":
                      bool too, false where it is not there
    truncate_to_uint8 whether pictures are truncated to 8 bits instead of rounded
    model_id          sha256 of the trained weights, 64 hexadecimal digits
    rate_points       [{"index": 0, "target_bpp": number}, …], indices counting from 0
    default_rate      index of the rate point that is used when none is asked for
    graphs            {name: file name}: "encoder", "x_decoder", "fusion"; in format 1 "decoder"
                      (the whole decoder in one graph) and "context"; in format 2 "hyper" and
                      "step0", "step1", … (two or four)
    int8              (format 2, optional) {"target": "cpu", "pictures": "uint8", "graphs": {name:
                      file name}}: encoder, x_decoder and fusion in 8 bits, for processors that
                      compute them faster; "pictures" is not there where they are float32
    looks             (format 2, optional) {"structure" or "sharp": {"fusion": file name,
                      "int8": file name}}: other fusions for the same packets, which a server
                      chooses from; "int8" where the bundle has 8-bit networks
    context_tables    (format 1) file name of the integer context model
    entropy_tables    (format 2) file name of the tables of scales
    files             {file name: {"sha256": 64 hexadecimal digits, "bytes": size}}
    training          training data and metrics (free form)
    weights_licence   licence of the weights

Names are plain file names inside the directory, and `files` lists everything but the manifest.
Recipes are used, and refused where they do not fit, when a graph is opened that needs them.

The codec id is the first 6 bytes of the sha256 of: the letters "dsin codec", the version of the
bitstream (u8), model_id as 32 bytes, the digest of the entropy model (32 bytes), then channels,
centers, stride and the two frame multiples, each as u16, little-endian. In format 2 the digest is
the sha256 of that of the tables and of the files of hyper and its steps in turn, and the number of
rates stands for centers.
"""

import dataclasses
import hashlib
import operator
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from dsin.runtime.codec.packet import VERSION
from dsin.runtime.entropy.context_model import IntegerContextModel
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE, ORDER, HyperTables
from dsin.runtime.errors import BundleError, DsinError
from dsin.runtime.files import is_folder
from dsin.runtime.manifest import MANIFEST, Table, check_plain_name, read_arrays, read_manifest
from dsin.runtime.patch_correlation.options import SearchOptions

Precision = Literal["auto", "float", "int8"]
"""Of the networks around the entropy model, which is exact in any case."""
LEVELS = "uint8"
"""What the manifest says where 8-bit networks have pictures in 8 bits too."""
INT8_GRAPHS = ("encoder", "x_decoder", "fusion")
Look = Literal["faithful", "structure", "sharp"]
"""What a fusion was trained for: least squared error, structural similarity, appearance."""
FAITHFUL: Look = "faithful"
"""Of the fusion that every bundle has."""
OTHER_LOOKS: tuple[Look, ...] = ("structure", "sharp")
CAUSAL, HYPERPRIOR = 1, 2
"""Formats, by their entropy model."""
FamilyName = Literal["paper", "edge"]
"""Of models: those of format 1, and those of format 2 (see `dsin.runtime.codec.families`)."""
DEFAULT_BUNDLE = "edge"
"""Name of the shipped bundle that is used when none is named."""
GRAPHS = {
    CAUSAL: ("encoder", "decoder", "x_decoder", "fusion", "context"),
    HYPERPRIOR: ("encoder", "x_decoder", "fusion", "hyper"),
}
"""Of each format; the second has step0, step1, … besides, two or four of them."""
Arrays = dict[str, npt.NDArray[Any]]
"""Of a bundle's tables, by name."""
MAX_FILE_BYTES = 2**30
MAX_FILES = 64

_SHIPPED = Path(__file__).parent / "bundles"


@dataclass(frozen=True)
class RatePoint:
    """One rate that the bundle can code at; `target_bpp` is what it was trained for."""

    index: int
    target_bpp: float


@dataclass(frozen=True)
class _Entry:
    sha256: str
    size: int


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was checked. Made by `open_bundle`; keys as in the manifest.

    It never changes: threads, encoders and decoders may share it. `print(bundle)` describes it.
    """

    path: Path
    family: FamilyName
    model: str
    preset: Mapping[str, Any]
    channels: int
    stride: int
    frame_multiple: tuple[int, int]
    search: SearchOptions
    truncate_to_uint8: bool
    model_id: str
    rate_points: tuple[RatePoint, ...]
    default_rate: int
    graphs: Mapping[str, str]
    file_bytes: Mapping[str, int]
    training: Mapping[str, Any]
    weights_licence: str
    entropy: IntegerContextModel | HyperTables
    codec_id: bytes
    int8: Mapping[str, Any]
    """What the manifest says of 8-bit networks beside the float ones; empty if there are none."""
    precision: Precision = "auto"
    """Which of them is wanted; see `dsin.runtime.codec.precision`."""
    looks: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Files of other fusions: of each look "fusion" and, with 8-bit networks, "int8"."""
    look: Look = FAITHFUL
    """That of the fusion among `graphs`; see `with_look`."""

    def __str__(self) -> str:
        from dsin.runtime.codec.facts import as_lines, bundle_summary

        return as_lines(bundle_summary(self))

    @property
    def context_model(self) -> IntegerContextModel:
        """`entropy` of the family `paper`."""
        assert isinstance(self.entropy, IntegerContextModel), self.family
        return self.entropy

    @property
    def hyper_tables(self) -> HyperTables:
        """`entropy` of the family `edge`."""
        assert isinstance(self.entropy, HyperTables), self.family
        return self.entropy

    @property
    def refers(self) -> bool:
        """Whether its packets may refer to earlier frames."""
        return self.family == "edge"

    @property
    def has_level_pictures(self) -> bool:
        """Whether its networks have pictures and features in 8 bits with channels last, instead of
        as planes of float32."""
        calibration = self.training.get("calibration")
        return isinstance(calibration, dict) and calibration.get("pictures") == LEVELS

    def graph_path(self, name: str) -> Path:
        """Path of the ONNX graph of that name, one of `graphs`."""
        return self.path / self.graphs[name]

    @property
    def entropy_graphs(self) -> tuple[str, ...]:
        """Names of the graphs that must be exact: of format 2 hyper and its steps, in the order of
        coding."""
        return _exact_graphs(self.graphs)

    def rate_index(self, rate: int | None) -> int:
        """`rate`, or the default for None. Raises DsinError where the bundle has no such rate."""
        if rate is None:
            return self.default_rate
        if isinstance(rate, bool) or not hasattr(rate, "__index__"):
            raise DsinError(f"a rate is a whole number, the index of a rate point, not {rate!r}")
        rate = operator.index(rate)
        if not 0 <= rate < len(self.rate_points):
            last = len(self.rate_points) - 1
            known = "only rate 0" if last == 0 else f"rates 0 to {last}"
            raise DsinError(f"bundle {self.path.name} has {known}, not {rate}")
        return rate


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(folder.name for folder in _SHIPPED.glob("*") if (folder / MANIFEST).is_file())


def open_bundle(path: Path | str | None = None) -> Bundle:
    """Read and check a bundle: a directory, the name of a shipped bundle, or None for the default.

    Behind a directory or a name, `@float` or `@int8` asks for networks of that precision; without,
    the machine decides where there are both (see `dsin.runtime.codec.precision`). `@structure` or
    `@sharp` asks for the fusion of that look.

    Raises BundleError, one line, for anything that is missing, altered, escaping or too large.
    """
    name, precision, look = _named_choices(DEFAULT_BUNDLE if path is None else path)
    directory = _directory(name)
    manifest = read_manifest(directory / MANIFEST)
    number = manifest.integer("format", 0, 2**31)
    if number not in GRAPHS:
        raise BundleError(
            f"{manifest.where}: format {number} cannot be read by this version of dsin: "
            "update dsin, or export anew"
        )
    files = _files(manifest)
    table = manifest.table("graphs")
    names = GRAPHS[number] + (_entropy_steps(table) if number == HYPERPRIOR else ())
    graphs = {name: table.file(name, files) for name in names}
    tables = manifest.file(
        "context_tables" if number == CAUSAL else "entropy_tables", files
    )  # fmt: skip
    for name, entry in files.items():
        _check_file(directory, name, entry)
    arrays = read_arrays(directory / tables)
    coding = _causal_coding if number == CAUSAL else _hyperprior_coding
    bundle = _bundle(directory, manifest, graphs, files, coding(manifest, graphs, files, arrays))
    return with_look(dataclasses.replace(bundle, precision=precision), look)


def with_look(bundle: Bundle, look: Look) -> Bundle:
    """The bundle with the fusion of a look in the place of its own, for the same packets.

    Raises BundleError for a look that it lacks.
    """
    if look == bundle.look:
        return bundle
    if bundle.look != FAITHFUL or look not in bundle.looks:
        known = ", ".join([bundle.look, *bundle.looks]) if bundle.look == FAITHFUL else bundle.look
        raise BundleError(f"bundle {bundle.path.name} has no look {look}: it has {known}")
    files = bundle.looks[look]
    int8 = bundle.int8 and {
        **bundle.int8, "graphs": {**bundle.int8["graphs"], "fusion": files["int8"]}
    }  # fmt: skip
    graphs = {**bundle.graphs, "fusion": files["fusion"]}
    return dataclasses.replace(bundle, graphs=graphs, int8=int8, looks={}, look=look)


def codec_id(
    model_id: str,
    entropy_digest: bytes,
    channels: int,
    kinds: int,
    stride: int,
    frame_multiple: tuple[int, int],
) -> bytes:
    """The 6 bytes that identify the meaning of symbols and probabilities (see the module).

    `kinds` is the number of centres, or of rates in format 2.
    """
    sizes = struct.pack("<5H", channels, kinds, stride, *frame_multiple)
    parts = (b"dsin codec", bytes([VERSION]), bytes.fromhex(model_id), entropy_digest, sizes)
    return hashlib.sha256(b"".join(parts)).digest()[:6]


class _Coding(NamedTuple):
    """What the entropy model of a family adds to a bundle. `kinds` and `digest` go into the codec
    id; sides of frames are multiples of `steps`."""

    family: FamilyName
    entropy: IntegerContextModel | HyperTables
    kinds: int
    digest: bytes
    steps: tuple[int, int]


def _causal_coding(
    manifest: Table, graphs: dict[str, str], files: dict[str, _Entry], arrays: Arrays
) -> _Coding:
    context = IntegerContextModel.from_arrays(arrays)
    kinds = _centers(manifest, context)
    patch = _search(manifest.table("search")).patch
    return _Coding("paper", context, kinds, context.digest(), patch)


def _hyperprior_coding(
    manifest: Table, graphs: dict[str, str], files: dict[str, _Entry], arrays: Arrays
) -> _Coding:
    tables = HyperTables.from_arrays(arrays)
    if reason := _search(manifest.table("search")).reason_against_blocks():
        raise BundleError(f"{manifest.where}: search: {reason}")
    kinds, points = len(tables.z_scales), len(_rate_points(manifest))
    if kinds != points:
        raise BundleError(f"{manifest.where}: {points} rate_points, but tables for {kinds}")
    hashes = [files[graphs[name]].sha256 for name in _exact_graphs(graphs)]
    digest = hashlib.sha256(tables.digest() + bytes.fromhex("".join(hashes))).digest()
    step = HYPER_STRIDE * manifest.integer("stride", 1, 64)
    return _Coding("edge", tables, kinds, digest, (step, step))


def _bundle(
    directory: Path,
    manifest: Table,
    graphs: dict[str, str],
    files: dict[str, _Entry],
    coding: _Coding,
) -> Bundle:
    rate_points = _rate_points(manifest)
    channels = manifest.integer("channels", 1, 1024)
    stride = manifest.integer("stride", 1, 64)
    multiple = manifest.pair("frame_multiple")
    model_id = manifest.sha256("model_id")
    if any(m % step or m % stride for m, step in zip(multiple, coding.steps, strict=True)):
        raise BundleError(
            f"{manifest.where}: frame_multiple is not a multiple of the patches and strides"
        )
    return Bundle(
        path=directory,
        family=coding.family,
        model=manifest.text("model"),
        preset=manifest.mapping("preset"),
        channels=channels,
        stride=stride,
        frame_multiple=multiple,
        search=_search(manifest.table("search")),
        truncate_to_uint8=manifest.flag("truncate_to_uint8"),
        model_id=model_id,
        rate_points=rate_points,
        default_rate=manifest.integer("default_rate", 0, len(rate_points) - 1),
        graphs=graphs,
        file_bytes={name: entry.size for name, entry in files.items()},
        training=manifest.mapping("training"),
        weights_licence=manifest.text("weights_licence", default="not stated"),
        entropy=coding.entropy,
        codec_id=codec_id(model_id, coding.digest, channels, coding.kinds, stride, multiple),
        int8=_int8(manifest, files),
        looks=_looks(manifest, files),
    )


def _int8(manifest: Table, files: dict[str, _Entry]) -> dict[str, Any]:
    """The manifest's part of that name, checked."""
    if "int8" not in manifest.data:
        return {}
    table = manifest.table("int8")
    graphs = table.table("graphs")
    return {
        **table.data,
        "target": table.text("target"),
        "graphs": {name: graphs.file(name, files) for name in INT8_GRAPHS},
    }


def _looks(manifest: Table, files: dict[str, _Entry]) -> dict[str, dict[str, str]]:
    """The manifest's part of that name, checked."""
    if "looks" not in manifest.data:
        return {}
    table, wanted = manifest.table("looks"), ["fusion"] + ["int8"] * ("int8" in manifest.data)
    if unknown := sorted(set(table.data) - set(OTHER_LOOKS)):
        raise BundleError(f"{table.where}: {unknown[0]!r} is none of {', '.join(OTHER_LOOKS)}")
    return {
        look: {name: table.table(look).file(name, files) for name in wanted} for look in table.data
    }


def _named_choices(path: Path | str) -> tuple[Path | str, Precision, Look]:
    """A bundle's name without precision and look behind it, and these."""
    precision: Precision = "auto"
    look: Look = FAITHFUL
    while isinstance(path, str | os.PathLike):
        name, at, wanted = os.fspath(path).rpartition("@")
        if at and wanted in ("float", "int8"):
            precision = "float" if wanted == "float" else "int8"
        elif at and wanted in OTHER_LOOKS:
            look = OTHER_LOOKS[OTHER_LOOKS.index(wanted)]
        else:
            break
        path = name
    return path, precision, look


def _exact_graphs(graphs: Mapping[str, str]) -> tuple[str, ...]:
    """See `Bundle.entropy_graphs`."""
    if "hyper" not in graphs:
        return ("context",)
    return ("hyper", *sorted(name for name in graphs if name.startswith("step")))


def _entropy_steps(graphs: Table) -> tuple[str, ...]:
    """Names of a manifest's step graphs, in the order of coding. Raises BundleError for a number
    of them that no order of coding exists for."""
    names = tuple(f"step{n}" for n in range(max(ORDER)) if f"step{n}" in graphs.data)
    if len(names) not in ORDER or names[-1] != f"step{len(names) - 1}":
        raise BundleError(f"{graphs.where} must have step0 and step1, or step0 to step3")
    return names


def _centers(manifest: Table, context: IntegerContextModel) -> int:
    centers = manifest.integer("centers", 2, 256)
    if centers != context.symbols_per_alphabet:
        raise BundleError(
            f"{manifest.where}: {centers} centers, but the context model has "
            f"{context.symbols_per_alphabet}"
        )
    return centers


def _directory(path: Path | str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise BundleError(f"a bundle is named by its path or name, not by {path!r}")
    if isinstance(path, str) and path in (names := shipped_bundles()):
        return _SHIPPED / path
    directory = Path(path)
    if not is_folder(directory, BundleError):
        names = shipped_bundles()
        known = f"shipped are: {', '.join(names)}" if names else "this build ships none"
        raise BundleError(f"there is no bundle {path}: name a bundle directory ({known})")
    return directory


def _files(manifest: Table) -> dict[str, _Entry]:
    table = manifest.table("files")
    if len(table.data) > MAX_FILES:
        raise BundleError(f"{table.where}: more than {MAX_FILES} files")
    entries = {}
    for name in table.data:
        check_plain_name(name, table.where)
        entry = table.table(name)
        size = entry.integer("bytes", 0, MAX_FILE_BYTES)
        entries[name] = _Entry(entry.sha256("sha256"), size)
    return entries


def _check_file(directory: Path, name: str, entry: _Entry) -> None:
    """Refuse a file that is missing, outside, or not the one that was exported."""
    path = directory / name
    try:
        if path.resolve().parent != directory.resolve():
            raise BundleError(f"{path} is a link that leaves the bundle")
        if not path.is_file():
            raise BundleError(f"{path} is missing: the bundle is incomplete")
        if path.stat().st_size != entry.size:
            raise BundleError(
                f"{path} does not have the {entry.size} bytes that {MANIFEST} declares"
            )
        digest = _sha256(path)
    except (OSError, RuntimeError) as error:
        raise BundleError(f"cannot read {path}: {error}") from error
    if digest != entry.sha256:
        raise BundleError(f"{path} was altered: its sha256 is not the one in {MANIFEST}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _rate_points(manifest: Table) -> tuple[RatePoint, ...]:
    entries = manifest.data.get("rate_points")
    if not isinstance(entries, list) or not 1 <= len(entries) <= 256:
        raise BundleError(f"{manifest.where}: rate_points must be a list of 1 to 256")
    points = []
    for index, data in enumerate(entries):
        entry = Table(data, f"{manifest.where}: rate_points[{index}]")
        if entry.integer("index", 0, 255) != index:
            raise BundleError(f"{entry.where}: index must be {index}")
        points.append(RatePoint(index, entry.number("target_bpp")))
    return tuple(points)


def _search(table: Table) -> SearchOptions:
    measure = table.text("measure")
    if measure not in ("pearson", "l2"):
        raise BundleError(f"{table.where}: measure must be pearson or l2, not {measure!r}")
    return SearchOptions(
        patch=table.pair("patch"),
        measure="pearson" if measure == "pearson" else "l2",
        prior=table.flag("prior"),
        stretched=table.flag("stretched_patches"),
        off_centre=table.flag("off_centre_prior"),
        flow="flow" in table.data and table.flag("flow"),
    )
