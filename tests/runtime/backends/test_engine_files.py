"""Engines on disk: what is checked before one is used, and what the refusals say."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.fake_engines import ARCHITECTURE, VERSION, write_fake

from dsin.runtime.backends import engine_files
from dsin.runtime.backends.engine_files import (
    MAGIC,
    MAX_HEADER_BYTES,
    EngineFile,
    engine_folder,
    find_engines,
    graph_digest,
    read_header,
)
from dsin.runtime.backends.onnx_weight_files import weight_files
from dsin.runtime.errors import BackendError, BundleError, DsinError

SHIPPED = Path(__file__).resolve().parents[3] / "runtime" / "codec" / "bundles"
RANGE = {"x": ((1, 3, 64, 64), (1, 3, 128, 192)), "rate": ((1,), (1,))}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one graph and its weights; engines go to a folder of their own."""
    monkeypatch.setenv("DSIN_ENGINES", str(tmp_path / "engines"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("encoder.onnx", "encoder.weights"):
        shutil.copy(SHIPPED / "edge" / name, folder)
    return folder


def find(bundle: Path, precision: Any = "fp32") -> list[EngineFile]:
    return find_engines(bundle / "encoder.onnx", precision, VERSION, ARCHITECTURE)


def write(bundle: Path, **changed: Any) -> Path:
    graph = bundle / "encoder.onnx"
    return write_fake(engine_folder(bundle), graph, RANGE, **changed)


def refusal(bundle: Path, precision: Any = "fp32") -> str:
    with pytest.raises(BackendError) as caught:
        find(bundle, precision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_engine_is_found_with_all_that_it_is_for(bundle: Path) -> None:
    path = write(bundle, plan=b"an engine")
    (found,) = find(bundle)
    assert found.path == path
    assert found.read_plan() == b"an engine"
    assert found.header.inputs == RANGE
    digest = graph_digest(bundle / "encoder.onnx")
    assert found.header.graph_sha256 == digest
    assert path.name == f"encoder-fp32-128x192-trt10.3.0-sm90-{digest[:12]}.engine"


def test_an_engine_takes_the_shapes_of_its_range_only(bundle: Path) -> None:
    write(bundle)
    takes = find(bundle)[0].header.takes
    assert takes({"x": (1, 3, 64, 192), "rate": (1,)})
    assert not takes({"x": (1, 3, 64, 256), "rate": (1,)})
    assert not takes({"x": (1, 3, 64), "rate": (1,)})
    assert not takes({"x": (1, 3, 64, 192)})


def test_engines_of_several_kinds_lie_side_by_side(bundle: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"precision": "fp16"}, {"frame": (64, 64)}, {"tensorrt": "11.4.0"},
        {"architecture": 87}, {"graph_sha256": "0" * 64},
    ]  # fmt: skip
    assert len({write(bundle, **kind) for kind in kinds}) == len(kinds)
    assert [file.header.frame for file in find(bundle)] == [(128, 192), (64, 64)]
    assert len(find(bundle, "fp16")) == 1


def test_no_engine_says_how_to_build_one(bundle: Path) -> None:
    command = f"build with dsin-export trt {bundle} --precision"
    assert refusal(bundle, "fp16") == (
        f"there is no engine of {bundle / 'encoder.onnx'} in {engine_folder(bundle)}: "
        f"{command} fp16"
    )
    assert refusal(bundle, "exact").endswith(f"{command} fp32")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"rules": 0}, "was built by another version of dsin"),
        ({"graph_sha256": "0" * 64}, "was built from another export of the graph"),
        ({"precision": "fp16"}, "is of fp16, not fp32, which --backend tensorrt wants"),
        ({"tensorrt": "11.4.0.1"}, "is of TensorRT 11.4.0.1, and here is 10.3.0"),
        ({"architecture": 87}, "is for sm_87, and here is sm_90"),
        ({"architecture": None}, "is for a machine without a GPU, and here is sm_90"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_that_does_not_fit_is_refused(
    bundle: Path, changed: dict[str, Any], problem: str
) -> None:
    write(bundle, **changed)
    assert refusal(bundle) == (
        f"the engine of {bundle / 'encoder.onnx'} {problem}: "
        f"rebuild with dsin-export trt {bundle} --precision fp32"
    )


@pytest.mark.parametrize(("precision", "backend"), [("fp16", "-fp16"), ("int8", "-int8")])
def test_a_precision_is_named_with_the_backend_that_wants_it(
    bundle: Path, precision: str, backend: str
) -> None:
    write(bundle)
    wanted = f"is of fp32, not {precision}, which --backend tensorrt{backend} wants: rebuild"
    assert wanted in refusal(bundle, precision)


def test_other_weights_are_another_graph(bundle: Path) -> None:
    write(bundle)
    weights = bundle / "encoder.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "another export of the graph" in refusal(bundle)


def test_weights_outside_the_bundle_are_not_read(bundle: Path) -> None:
    path = bundle / "encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"'../secret' is not a plain file name"):
        graph_digest(path)


@pytest.mark.parametrize("name", ["edge/encoder", "edge/step0", "paper/decoder", "paper/context"])
def test_the_files_of_weights_are_those_that_onnx_knows(name: str) -> None:
    path = SHIPPED / f"{name}.onnx"
    model = onnx.load(path, load_external_data=False)
    expected = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert weight_files(path.read_bytes()) == expected


def with_fields(data: bytes, **changed: object) -> bytes:
    """The file with another header, whose length is right."""
    end = 12 + int.from_bytes(data[8:12], "little")
    text = json.dumps({**json.loads(data[12:end]), **changed}).encode()
    return data[:8] + len(text).to_bytes(4, "little") + text + data[end:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:5],
        lambda data: b"something else " + data,
        lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:],
        lambda data: data[:12] + b"[" + data[13:],
        lambda data: with_fields(data, rules=[]),
        lambda data: with_fields(data, architecture="90"),
        lambda data: with_fields(data, tensorrt=10.3),
        lambda data: with_fields(data, frame=[128]),
        lambda data: with_fields(data, fames=[128, 192]),
        lambda data: with_fields(data, inputs={"x": 1}),
        lambda data: with_fields(data, inputs=1),
        lambda data: with_fields(data, frame=[128, 192.5]),
    ],
    ids=["cut", "foreign", "long", "no JSON", "no number", "no architecture", "no text", "no pair",
         "other fields", "no range", "no inputs", "part of a pixel"],
)  # fmt: skip
def test_a_damaged_header_is_refused(bundle: Path, damage: Any) -> None:
    path = write(bundle)
    data = damage(path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    assert refusal(bundle) == (
        f"{path} is not an engine of dsin, or is damaged: delete it and rebuild with "
        "dsin-export trt"
    )


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-1] + b"?", lambda d: d + b"!"])
def test_a_damaged_engine_never_reaches_tensorrt(bundle: Path, damage: Any) -> None:
    path = write(bundle, plan=b"an engine")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BackendError, match=r"is damaged: delete it and rebuild with dsin-export"):
        find(bundle)[0].read_plan()


def test_a_header_beyond_the_limit_is_not_read(bundle: Path) -> None:
    """Nor is memory taken for it."""
    path = write(bundle)
    data = path.read_bytes()
    path.write_bytes(data[:8] + (MAX_HEADER_BYTES + 1).to_bytes(4, "little") + data[12:])
    with pytest.raises(BackendError, match="is damaged") as caught:
        read_header(path)
    assert str(caught.value.__cause__) == "header too long"


def test_what_cannot_be_read_is_named(bundle: Path) -> None:
    path = write(bundle)
    (engine,) = find(bundle)
    path.unlink()
    for read in (engine.read_plan, lambda: read_header(path)):
        with pytest.raises(BackendError) as caught:
            read()
        assert str(caught.value) == f"cannot read {path}: No such file or directory"
    weights = bundle / "encoder.weights"
    weights.unlink()
    with pytest.raises(BundleError) as lost:
        graph_digest(bundle / "encoder.onnx")
    assert str(lost.value) == f"cannot read {weights}: No such file or directory"


def test_a_full_disk_keeps_the_old_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(bundle, plan=b"the old engine")
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DsinError, match=r"cannot write .*: No space left on device"):
            write(bundle, plan=b"the new engine")
    assert find(bundle)[0].read_plan() == b"the old engine"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("in the way")
    with pytest.raises(BackendError, match=r"cannot make .*mine"):
        write(bundle)


def test_engines_lie_in_the_cache_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DSIN_ENGINES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert engine_folder(Path("some/edge")) == tmp_path / "dsin" / "engines" / "edge"


def test_the_header_is_what_the_module_says(bundle: Path) -> None:
    data = write(bundle, plan=b"an engine").read_bytes()
    assert data[:8] == MAGIC == b"dsin trt"
    length = int.from_bytes(data[8:12], "little")
    assert data[12 + length :] == b"an engine"
    assert read_header(write(bundle)).rules == engine_files.RULES
