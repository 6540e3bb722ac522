"""Bundles: what is read, and everything that must be refused in one line."""

import copy
import hashlib
import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.block_bundle import (
    context_model,
    read_manifest,
    relist,
    write_block_bundle,
    write_manifest,
)

from dsin.runtime.codec import bundle as bundle_module
from dsin.runtime.codec.bundle import (
    CAUSAL,
    DEFAULT_BUNDLE,
    GRAPHS,
    Bundle,
    RatePoint,
    open_bundle,
    shipped_bundles,
)
from dsin.runtime.entropy.context_model import IntegerContextModel
from dsin.runtime.errors import BundleError
from dsin.runtime.manifest import MAX_MANIFEST_BYTES, read_arrays
from dsin.runtime.patch_correlation.options import SearchOptions


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("bundle") / "blocks")


@pytest.fixture
def directory(pristine: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "blocks"))


def refusal(directory: Path) -> str:
    """The message of the BundleError that opening raises: one line."""
    with pytest.raises(BundleError) as caught:
        open_bundle(directory)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestGoodBundle:
    def test_the_manifest_is_read_into_fields(self, pristine: Path) -> None:
        bundle = open_bundle(pristine)
        assert (bundle.model, bundle.channels, bundle.stride) == ("blocks", 3, 8)
        assert bundle.frame_multiple == (40, 24)
        assert bundle.search == SearchOptions((20, 24), "pearson", True, False, False)
        assert bundle.rate_points == (RatePoint(0, 0.06), RatePoint(1, 0.1))
        assert isinstance(bundle.entropy, IntegerContextModel)
        assert bundle.entropy.symbols_per_alphabet == 6
        assert [bundle.graph_path(n).name for n in GRAPHS[CAUSAL]] == [
            f"{n}.onnx" for n in GRAPHS[CAUSAL]
        ]
        assert bundle.rate_index(None) == 1
        assert bundle.rate_index(0) == 0

    def test_a_directory_may_be_given_as_text(self, pristine: Path) -> None:
        assert open_bundle(str(pristine)).codec_id == open_bundle(pristine).codec_id

    def test_the_codec_id_is_specified_byte_by_byte(self, pristine: Path) -> None:
        content = b"dsin codec" + b"\x01" + b"\xab" * 32 + context_model().digest()
        content += struct.pack("<HHHHH", 3, 6, 8, 40, 24)
        assert open_bundle(pristine).codec_id == hashlib.sha256(content).digest()[:6]

    def test_other_weights_have_another_codec_id(self, pristine: Path, tmp_path: Path) -> None:
        other = write_block_bundle(tmp_path / "other", model_id="cd" * 32)
        assert open_bundle(other).codec_id != open_bundle(pristine).codec_id

    def test_free_form_keys_may_be_absent(self, directory: Path) -> None:
        content = read_manifest(directory)
        for key in ("preset", "training", "weights_licence"):
            del content[key]
        write_manifest(directory, content)
        assert open_bundle(directory).weights_licence == "not stated"

    def test_shipped_bundles_open_by_name(
        self, pristine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in (DEFAULT_BUNDLE, "other"):
            shutil.copytree(pristine, tmp_path / name)
        monkeypatch.setattr(bundle_module, "_SHIPPED", tmp_path)
        assert shipped_bundles() == sorted((DEFAULT_BUNDLE, "other"))
        assert open_bundle().path.name == DEFAULT_BUNDLE
        assert open_bundle("other").path == tmp_path / "other"
        with pytest.raises(BundleError, match=r"no bundle nix.*shipped are: edge, other"):
            open_bundle("nix")


class TestFiles:
    def test_a_directory_without_manifest(self, tmp_path: Path) -> None:
        assert "is not a bundle" in refusal(tmp_path)

    @pytest.mark.parametrize("name", ["encoder.onnx", "fusion.onnx", "context.npz"])
    def test_a_missing_file(self, directory: Path, name: str) -> None:
        (directory / name).unlink()
        assert f"{name} is missing" in refusal(directory)

    @pytest.mark.parametrize("name", ["encoder.onnx", "fusion.onnx", "context.npz"])
    def test_an_altered_file(self, directory: Path, name: str) -> None:
        data = bytearray((directory / name).read_bytes())
        data[len(data) // 2] ^= 1
        (directory / name).write_bytes(data)
        assert f"{name} was altered" in refusal(directory)

    def test_a_file_cut_short(self, directory: Path) -> None:
        path = directory / "encoder.onnx"
        path.write_bytes(path.read_bytes()[:-1])
        assert "encoder.onnx does not have the" in refusal(directory)

    def test_a_folder_in_place_of_a_file(self, directory: Path) -> None:
        (directory / "encoder.onnx").unlink()
        (directory / "encoder.onnx").mkdir()
        assert "encoder.onnx is missing" in refusal(directory)

    def test_a_link_that_leaves_the_directory(self, directory: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside.onnx"
        (directory / "encoder.onnx").rename(outside)
        (directory / "encoder.onnx").symlink_to(outside)
        assert "is a link that leaves the bundle" in refusal(directory)

    def test_a_link_to_itself(self, directory: Path) -> None:
        (directory / "encoder.onnx").unlink()
        (directory / "encoder.onnx").symlink_to("encoder.onnx")
        assert "encoder.onnx" in refusal(directory)

    @pytest.mark.parametrize(
        "name",
        ["../outside.onnx", "/etc/passwd", "sub/encoder.onnx", "..", ".", "", ".hidden", "a\0b",
         "a\\b", "C:x", "bundle.json", "x" * 101, "a\nb"],
    )  # fmt: skip
    @pytest.mark.parametrize("place", ["files", "graphs", "context_tables"])
    def test_names_that_leave_the_directory(self, directory: Path, name: str, place: str) -> None:
        content = read_manifest(directory)
        if place == "files":
            content["files"][name] = {"sha256": "0" * 64, "bytes": 1}
        elif place == "graphs":
            content["graphs"]["fusion"] = name
        else:
            content["context_tables"] = name
        write_manifest(directory, content)
        assert "is not a plain file name inside the bundle" in refusal(directory)

    @pytest.mark.parametrize("key", ["graphs", "context_tables"])
    def test_a_reference_that_the_list_of_files_lacks(self, directory: Path, key: str) -> None:
        content = read_manifest(directory)
        name = content["context_tables"] if key == "context_tables" else content[key]["fusion"]
        del content["files"][name]
        write_manifest(directory, content)
        assert f"{name}, which files does not list" in refusal(directory)

    def test_sizes_are_checked_before_anything_is_read(self, directory: Path) -> None:
        content = read_manifest(directory)
        content["files"]["encoder.onnx"]["bytes"] = 10**12
        write_manifest(directory, content)
        assert "bytes must be an integer from 0 to" in refusal(directory)

    def test_too_many_files(self, directory: Path) -> None:
        content = read_manifest(directory)
        content["files"] |= {f"f{n}": {"sha256": "0" * 64, "bytes": 1} for n in range(100)}
        write_manifest(directory, content)
        assert "more than 64 files" in refusal(directory)


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


class TestManifest:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b'"text"',
            b"\xff\xfe",
            b"[" * 100_000,
            b" " * MAX_MANIFEST_BYTES + b"{}",
        ],
        ids=["empty", "cut", "list", "text", "no utf-8", "deep", "large"],
    )
    def test_what_is_no_json_object(self, directory: Path, data: bytes) -> None:
        (directory / "bundle.json").write_bytes(data)
        assert "bundle.json" in refusal(directory)

    def test_a_manifest_without_end(self, directory: Path) -> None:
        (directory / "bundle.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
        assert "is over the limit of 1048576 bytes" in refusal(directory)

    def test_another_format(self, directory: Path) -> None:
        write_manifest(directory, {**read_manifest(directory), "format": 3})
        assert "format 3 cannot be read by this version of dsin" in refusal(directory)

    def test_every_required_key_is_required(self, directory: Path, pristine: Path) -> None:
        content = read_manifest(pristine)
        for key in set(content) - {"preset", "training", "weights_licence"}:
            write_manifest(directory, {k: v for k, v in content.items() if k != key})
            assert key in refusal(directory)

    @pytest.mark.parametrize("wrong", [None, "text", -1, 10**9, 1.5, [], {}, [1], True])
    def test_every_key_is_of_its_type(self, directory: Path, pristine: Path, wrong: Any) -> None:
        content = read_manifest(pristine)
        free = {"model", "weights_licence"} if isinstance(wrong, str) else set()
        free |= {"truncate_to_uint8"} if wrong is True else set()
        free |= {"preset", "training"} if wrong == {} else set()
        for key in set(content) - free:
            write_manifest(directory, {**content, key: wrong})
            assert key in refusal(directory)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (_set("centers", value=7), "7 centers, but the context model has 6"),
            (_set("model_id", value="XY" * 32), "64 hexadecimal digits"),
            (_set("model_id", value="ab" * 33), "64 hexadecimal digits"),
            (_set("default_rate", value=2), "default_rate must be an integer from 0 to 1"),
            (_set("rate_points", value=[]), "rate_points must be a list of 1 to 256"),
            (_set("rate_points", 1, "index", value=0), "index must be 1"),
            (_set("rate_points", 0, "target_bpp", value=float("nan")), "target_bpp must be"),
            (_set("rate_points", 0, value=5), "must be a JSON object"),
            (_set("search", "measure", value="cosine"), "measure must be pearson or l2"),
            (_set("search", "prior", value=1), "prior must be true or false"),
            (
                _set("search", "patch", value=[20, 25]),
                "is not a multiple of the patches",
            ),
            (
                _set("frame_multiple", value=[20, 24]),
                "is not a multiple of the patches",
            ),
            (_set("files", "encoder.onnx", "sha256", value="0"), "64 hexadecimal digits"),
        ],
    )
    def test_values_that_contradict(
        self, directory: Path, change: Callable[[dict[str, Any]], None], message: str
    ) -> None:
        content = read_manifest(directory)
        change(content)
        write_manifest(directory, content)
        assert message in refusal(directory)

    @settings(max_examples=100, deadline=None)
    @given(data=st.data())
    def test_changes_at_random_places(
        self, pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        original = read_manifest(pristine)
        content = copy.deepcopy(original)
        parent: Any = content
        for _ in range(data.draw(st.integers(0, 2))):
            children = list(parent.values()) if isinstance(parent, dict) else parent
            inner = [child for child in children if isinstance(child, dict | list) and child]
            parent = data.draw(st.sampled_from(inner)) if inner else parent
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        parent[data.draw(st.sampled_from(keys))] = data.draw(
            anything | st.lists(anything, max_size=3)
        )
        directory = tmp_path_factory.mktemp("fuzz") / "blocks"
        shutil.copytree(pristine, directory)
        write_manifest(directory, content)
        lines = set()
        try:
            assert isinstance(open_bundle(directory), Bundle)
        except BundleError as error:
            lines.add(str(error).count("\n"))
        assert lines <= {0}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write_archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


class TestTables:
    def test_integer_arrays_of_any_shape_are_read(self, tmp_path: Path) -> None:
        arrays = {
            "a": np.arange(24, dtype=np.int8).reshape(2, 3, 4),
            "b": np.array([2**31 - 1], np.int32),
            "c": np.zeros((0, 3), np.uint16),
            "d": np.array(7),
        }
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "t.npz", **arrays)
            read = read_arrays(tmp_path / "t.npz")
            assert set(read) == set(arrays)
            for name, array in arrays.items():
                assert np.array_equal(read[name], array)
                assert read[name].dtype == array.dtype

    def test_a_bundle_with_a_pickle_for_a_table(self, directory: Path) -> None:
        # The hash is right: whoever made the bundle meant it.
        table = np.array([print], object)
        write_archive(directory / "context.npz", {"weight0.npy": npy(table)})
        relist(directory)
        assert "is not a table of integer arrays" in refusal(directory)

    def test_a_bundle_that_lacks_a_table(self, directory: Path) -> None:
        arrays = context_model().to_arrays()
        del arrays["bounds"]
        np.savez(directory / "context.npz", **arrays)  # type: ignore[arg-type]
        relist(directory)
        assert "'bounds' is missing" in refusal(directory)

    @pytest.mark.parametrize(
        "member",
        [
            b"",
            b"text",
            npy(np.zeros(3))[:-1],
            npy(np.zeros(3)),
            npy(np.asfortranarray(np.ones((2, 3), np.int32))),
            npy(np.zeros(3, np.int32))[:-1],
            npy(np.zeros(3, np.int32)) + b"x",
            npy(np.zeros(3, np.int32)).replace(b"(3,), ", b"(9e9,)"),
            npy(np.zeros(300, np.int32)).replace(b"(300,)", b"(-30,)"),
            npy(np.zeros(30, np.int32)).replace(b"(30,), ", b"(99**9,)"),
            npy(np.zeros(3, "datetime64[s]")),
            npy(np.zeros(3, np.int32)).replace(b"(3,)", b"((3)"),
            npy(np.zeros(3, np.int32)).replace(b"(3,)", b"(3 3"),
            npy(np.zeros(3, np.int32)).replace(b"(3,)", b"3L)\n"),
        ],
    )
    def test_members_that_are_no_integer_array(self, tmp_path: Path, member: bytes) -> None:
        write_archive(tmp_path / "t.npz", {"a.npy": member})
        with pytest.raises(BundleError, match="not a table of integer arrays"):
            read_arrays(tmp_path / "t.npz")

    def test_archives_that_unpack_to_too_much(self, tmp_path: Path) -> None:
        member = npy(np.zeros(2**23, np.int8))
        write_archive(tmp_path / "t.npz", {"a.npy": member, "b.npy": member}, zipfile.ZIP_DEFLATED)
        with pytest.raises(BundleError, match="unpacks to more than"):
            read_arrays(tmp_path / "t.npz")

    def test_archives_of_another_compression(self, tmp_path: Path) -> None:
        write_archive(tmp_path / "t.npz", {"a.npy": npy(np.zeros(3, np.int8))}, zipfile.ZIP_LZMA)
        with pytest.raises(BundleError, match="neither stored nor deflated"):
            read_arrays(tmp_path / "t.npz")

    def test_an_archive_that_lies_about_its_size(self, tmp_path: Path) -> None:
        write_archive(tmp_path / "t.npz", {"a.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)
        data = (tmp_path / "t.npz").read_bytes()
        assert data.count((10**8).to_bytes(4, "little")) == 2
        data = data.replace((10**8).to_bytes(4, "little"), (100).to_bytes(4, "little"))
        (tmp_path / "t.npz").write_bytes(data)
        with pytest.raises(BundleError, match="not a table of integer arrays"):
            read_arrays(tmp_path / "t.npz")

    @settings(max_examples=200, deadline=None)
    @given(position=st.integers(0, 10**6), value=st.integers(0, 255))
    def test_archives_with_a_changed_byte(
        self, pristine: Path, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
    ) -> None:
        data = bytearray((pristine / "context.npz").read_bytes())
        data[position % len(data)] = value
        path = tmp_path_factory.getbasetemp() / "changed.npz"
        path.write_bytes(data)
        lines = set()
        try:
            read_arrays(path)
        except BundleError as error:
            lines.add(str(error).count("\n"))
        assert lines <= {0}
