"""8-bit weights follow from float ones by a bundle's recipe, or the recipe is refused."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from dsin.runtime.backends.derived_weights import (
    DerivedWeights,
    Kernel,
    derived_tensors,
    stored_files,
    weights_bytes,
)
from dsin.runtime.backends.session import open_session
from dsin.runtime.errors import BundleError

Tables = dict[str, NDArray[Any]]
FIRST = Kernel(8, 4, 1, 2, 8, 6, 2, 2, 2, 3, 1, 1, 0)
"""A matrix of 8 bits in the order that depth to space wants, of an input of three parts,"""
SECOND = Kernel(204, 400, 2, 4, 2, 3, 1, 1, 1, 1, 0, 0, 0)
"""and a float16 kernel."""
REST = np.arange(20, dtype=np.uint8)


@pytest.fixture(scope="module")
def source() -> bytes:
    rng = np.random.default_rng(1)
    first = rng.normal(0, 0.1, 192).astype("<f2").tobytes()
    return b"head" + first + bytes(12) + rng.normal(0, 0.1, 6).astype("<f4").tobytes()


@pytest.fixture(scope="module")
def expected(source: bytes) -> bytes:
    """The file, value by value."""
    first, second = first_matrix(source), second_kernel(source)
    return b"".join(
        [REST[:8].tobytes(), first.tobytes(), REST[8:12].tobytes(), second.tobytes(),
         REST[12:].tobytes()]
    )  # fmt: skip


def factors() -> NDArray[np.float32]:
    return np.concatenate([
        np.linspace(300, 500, 8), np.linspace(0.5, 2, 6), [1.5, 0.25], [1, 2, 3],
    ]).astype("<f4")  # fmt: skip


def first_matrix(source: bytes) -> NDArray[np.int8]:
    weight = np.frombuffer(source, "<f2", 192, 4).reshape(8, 6, 2, 2)
    rows, columns = factors()[:8], factors()[8:14]
    matrix = np.zeros((3, 2, 2, 2, 2, 2, 2), np.int8)
    for o, i, h, w in np.ndindex(weight.shape):
        value = np.float32(weight[o, i, h, w]) * rows[o] * columns[i]
        place = i // 2, h, w, i % 2, o // 2 % 2, o % 2, o // 4
        matrix[place] = np.clip(np.rint(value), -128, 127)
    matrix.ravel()[5] = -77
    return matrix


def second_kernel(source: bytes) -> NDArray[np.float16]:
    weight = np.frombuffer(source, "<f4", 6, 400).reshape(2, 3)
    return (weight * factors()[14:16, None] * factors()[16:]).astype("<f2")


def tables(source: bytes) -> Tables:
    sums = [zlib.crc32(first_matrix(source).tobytes()), zlib.crc32(second_kernel(source).tobytes())]
    kernels = [k._replace(checksum=s) for k, s in zip((FIRST, SECOND), sums, strict=True)]
    return {
        "kernels": np.array(kernels, "<i8"), "factors": factors().view("<u4"),
        "exceptions": np.array([[5, 256 - 77]], "<u4"), "rest": REST,
    }  # fmt: skip


def write(folder: Path, source: bytes, recipe: Tables) -> Path:
    """Where the derived weights would be."""
    (folder / "net.weights").write_bytes(source)
    with (folder / "net.int8.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **recipe)
    return folder / "net.int8.weights"


@pytest.fixture
def weights(source: bytes, tmp_path: Path) -> Path:
    return write(tmp_path, source, tables(source))


def test_a_file_is_derived_byte_for_byte(weights: Path, expected: bytes) -> None:
    assert weights_bytes(weights) == expected
    assert DerivedWeights(weights).size == len(expected)
    assert stored_files(weights) == {"net.int8.npz", "net.weights"}


def test_a_file_that_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "net.int8.weights").write_bytes(b"as it is")
    assert weights_bytes(tmp_path / "net.int8.weights") == b"as it is"
    assert stored_files(tmp_path / "net.int8.weights") == {"net.int8.weights"}


def test_parts_are_read_as_they_lie(weights: Path, expected: bytes) -> None:
    file = DerivedWeights(weights)
    for offset, length in ((0, 8), (3, 4), (8, 192), (200, 4), (204, 12), (216, 8), (224, 0)):
        assert file.read(offset, length).tobytes() == expected[offset : offset + length]
    for offset, length in ((0, 9), (8, 191), (9, 4), (199, 2), (216, 9), (300, 1)):
        with pytest.raises(BundleError, match=f"no {length} bytes at {offset}"):
            file.read(offset, length)


def graph(folder: Path, location: str = "net.int8.weights") -> Path:
    """Yields tensors of the file: a matrix, a float16 kernel and two floats behind it."""
    parts = [("m", TensorProto.INT8, (24, 8), 8), ("h", TensorProto.FLOAT16, (2, 3), 204),
             ("f", TensorProto.FLOAT, (2,), 216)]  # fmt: skip
    tensors, nodes, outputs = [], [], []
    for name, kind, shape, offset in parts:
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="offset", value=str(offset))
        tensors.append(tensor)
        inputs = [name, "x"] if name == "f" else [name]
        nodes.append(
            helper.make_node("Sum" if name == "f" else "Identity", inputs, [f"{name}_out"])
        )
        outputs.append(helper.make_tensor_value_info(f"{name}_out", kind, shape))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))
    made = helper.make_graph(nodes, "g", [given], outputs, tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = folder / "net.int8.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_onnxruntime_is_given_what_no_file_holds(weights: Path, source: bytes) -> None:
    path = graph(weights.parent)
    found = open_session(path).run(x=np.zeros(2, np.float32))
    np.testing.assert_array_equal(found["m_out"], first_matrix(source).reshape(24, 8))
    np.testing.assert_array_equal(found["h_out"], second_kernel(source))
    np.testing.assert_array_equal(found["f_out"], REST[12:].view("<f4"))


def test_a_graph_that_names_other_folders_is_refused(weights: Path) -> None:
    with pytest.raises(BundleError, match="not a plain file name"):
        derived_tensors(graph(weights.parent, "../net.int8.weights"))


CHANGES = {
    "source": "unusable sizes", "outputs": "unusable sizes", "height": "unusable sizes",
    "itemsize": "unusable sizes", "side": "unusable sizes", "parts": "unusable sizes",
    "at": "unusable sizes", "exceptions": "unusable sizes", "turned": "unusable sizes",
    "source_itemsize": "unusable sizes", "checksum": "not the file that it was made for",
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("value", [-1, 2**40])
def test_kernels_that_do_not_fit_are_refused(
    source: bytes, tmp_path: Path, field: str, value: int
) -> None:
    recipe = tables(source)
    recipe["kernels"][0, Kernel._fields.index(field)] = value
    with pytest.raises(BundleError, match=CHANGES[field]) as raised:
        weights_bytes(write(tmp_path, source, recipe))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "table", "reason"),
    [
        ("factors", factors()[:-1].view("<u4"), "more or fewer values"),
        ("factors", np.full(19, np.nan, "<f4").view("<u4"), "not finite"),
        ("factors", factors().view("<i4"), "no factors of uint32"),
        ("exceptions", np.array([[192, 1]], "<u4"), "no value of its kernel"),
        ("exceptions", np.array([[5, 256]], "<u4"), "no value of its kernel"),
        ("exceptions", np.array([[5]], "<u4"), "no pairs"),
        ("exceptions", np.zeros((2, 2), "<u4"), "more or fewer values"),
        ("kernels", np.zeros((2, 12), "<i8"), "other fields"),
        ("kernels", np.zeros(13, "<i8"), "no kernels of int64 with 2 axes"),
        ("rest", REST[:5], "unusable sizes"),
        ("rest", None, "no rest"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(
    source: bytes, tmp_path: Path, name: str, table: Any, reason: str
) -> None:
    recipe = tables(source)
    del recipe[name]
    with pytest.raises(BundleError, match=reason):
        weights_bytes(write(tmp_path, source, recipe | ({} if table is None else {name: table})))


def test_kernels_that_take_more_than_the_source_has_are_refused(
    source: bytes, tmp_path: Path
) -> None:
    """A small recipe must not ask for any amount of memory."""
    recipe = tables(source)
    copies = [FIRST._replace(at=8 + 192 * n, exceptions=0) for n in range(3)]
    recipe["kernels"] = np.array(copies, "<i8")
    with pytest.raises(BundleError, match="unusable sizes"):
        DerivedWeights(write(tmp_path, source, recipe))


def test_another_source_is_noticed(weights: Path) -> None:
    float_weights = weights.with_name("net.weights")
    float_weights.write_bytes(bytes(424))
    with pytest.raises(BundleError, match=r"net\.weights is not the file that it was made for"):
        weights_bytes(weights)
    float_weights.unlink()
    with pytest.raises(BundleError, match=r"net\.weights is missing"):
        weights_bytes(weights)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_recipe_is_refused_or_derives_a_file_of_that_size(
    weights: Path, source: bytes, expected: bytes, data: st.DataObject
) -> None:
    recipe = tables(source)
    kernels = recipe["kernels"]
    place = data.draw(st.tuples(st.integers(0, 1), st.integers(0, kernels.shape[1] - 2)))
    kernels[place] = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 500))
    write(weights.parent, source, recipe)
    file = bytearray((weights.parent / "net.int8.npz").read_bytes())
    if data.draw(st.booleans()):
        file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
        (weights.parent / "net.int8.npz").write_bytes(file)
    try:
        found = weights_bytes(weights)
    except BundleError:
        return
    assert len(found) == len(expected)
