"""8-bit weights leave a bundle for recipes that give them back byte for byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import textured_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dsin.calibration.qdq import weight_scales
from dsin.export import derived_weights
from dsin.export.bundle_files import file_table
from dsin.export.derived_weights import fit_factors, store_once, store_whole
from dsin.export.edge.recalibrate import repack_bundle
from dsin.export.weights import save_graphs
from dsin.runtime.backends.derived_weights import DerivedWeights, weights_bytes
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import BundleError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST

Array = NDArray[Any]


def model(tensors: dict[str, Array]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(v, name) for name, v in tensors.items()]
    return helper.make_model(helper.make_graph([], "g", [], [], initializers))


def scaled(weight: Array, rng: np.random.Generator) -> Array:
    """As equalisation does it: for each input and output, in double precision."""
    rows, columns = (2 ** rng.uniform(-6, 6, n) for n in weight.shape[:2])
    return weight * rows[:, None, None, None] / columns[:, None, None]


def units(weight: Array) -> Array:
    """As calibration does it."""
    scales = weight_scales(weight).reshape(-1, 1, 1, 1)
    return np.rint(weight.astype(np.float32) / scales).astype(np.int8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Weights of both kinds: a pointwise layer, one with a stride in parts, one in front of a depth
    to space, one that stays in float, and one that follows from nothing."""
    rng = np.random.default_rng(3)
    shapes = {"a": (64, 80, 1, 1), "b": (80, 24, 2, 2), "c": (64, 80, 3, 3), "d": (64, 96, 1, 1),
              "e": (64, 65, 1, 1), "f": (8, 1, 3, 3)}  # fmt: skip
    floats = {n: rng.normal(0, 0.1, shape).astype(np.float16) for n, shape in shapes.items()}
    wanted = {n: scaled(weight.astype(np.float64), rng) for n, weight in floats.items()}
    in_parts = units(wanted["b"]).reshape(80, 3, 8, 2, 2).transpose(1, 3, 4, 2, 0)
    enlarged = units(wanted["c"]).reshape(4, 4, 4, 80, 3, 3).transpose(1, 2, 0, 3, 4, 5)
    integers = {
        "a": units(wanted["a"])[:, :, 0, 0].T, "b": in_parts.reshape(96, 80),
        "c": enlarged.reshape(64, 80, 3, 3), "d": wanted["d"].astype(np.float16),
        "e": rng.integers(-127, 128, (64, 65, 1, 1)).astype(np.int8), "f": units(wanted["f"]),
        "bias": rng.normal(size=300).astype(np.float32),
    }  # fmt: skip
    save_graphs(tmp_path, {"net.weights": {"net": model(floats)}})
    save_graphs(tmp_path, {"net.int8.weights": {"net.int8": model(integers)}})
    return tmp_path


def test_what_follows_is_stored_once_and_comes_back(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    store_once(bundle)
    assert not (bundle / "net.int8.weights").exists()
    file = DerivedWeights(bundle / "net.int8.weights")
    assert file.whole() == before["net.int8.weights"]
    orders = [(k.outputs, k.itemsize, k.turned, k.side, k.parts) for k in file.kernels]
    assert orders == [(64, 1, 1, 1, 1), (80, 1, 1, 1, 3), (64, 1, 0, 4, 1), (64, 2, 0, 1, 1)]
    stored = (bundle / "net.int8.npz").stat().st_size
    assert stored < 0.3 * len(before["net.int8.weights"])
    store_whole(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_what_it_follows_from_must_be_there(bundle: Path) -> None:
    store_once(bundle)
    file = DerivedWeights(bundle / "net.int8.weights")
    (bundle / "net.weights").unlink()
    with pytest.raises(BundleError, match=r"net\.weights cannot be read"):
        file.whole()


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_values_that_were_rounded_otherwise_are_listed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(derived_weights, "MOST_EXCEPTIONS", share)
    weights = bundle / "net.int8.weights"
    data = bytearray(weights.read_bytes())
    largest = data.index(127)
    data[largest] -= 3
    weights.write_bytes(data)
    store_once(bundle)
    file = DerivedWeights(weights)
    assert file.whole() == data
    if share:
        assert [kernel.exceptions > 0 for kernel in file.kernels] == [True, False, False, False]
    else:
        assert [kernel.outputs for kernel in file.kernels] == [80, 64, 64]


def test_more_than_a_recipe_may_hold_is_stored_whole(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    monkeypatch.setattr(derived_weights, "MAX_TABLE_BYTES", 9000)
    store_once(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_weights_that_follow_from_nothing_stay(bundle: Path) -> None:
    rng = np.random.default_rng(0)
    floats = {"a": rng.normal(size=(64, 80, 1, 1)).astype(np.float16)}
    save_graphs(bundle, {"net.weights": {"net": model(floats)}})
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    store_once(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**32),
    zeros=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_factors_are_found_whatever_the_scales(
    shape: tuple[int, int, int, int], seed: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=shape) * (rng.random(shape) >= zeros)).astype(np.float16)
    wanted = units(scaled(weight.astype(np.float64), rng))
    flat = weight.reshape(*shape[:2], -1)
    factors = fit_factors(flat, wanted.reshape(flat.shape))
    assert factors.dtype == np.float32
    assert np.isfinite(factors).all()
    product = flat.astype(np.float32) * factors[: shape[0], None, None] * factors[shape[0] :, None]
    wrong = np.rint(product) != wanted.reshape(flat.shape)
    assert wrong.sum() <= 1  # a tie


@pytest.fixture(scope="module")
def as_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default bundle as it was before there were recipes."""
    folder = tmp_path_factory.mktemp("before") / "edge"
    shutil.copytree(open_bundle("edge").path, folder)
    store_whole(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).unlink()
    write_json(folder / MANIFEST, {**manifest, "files": file_table(folder)})
    return folder


def test_a_bundle_is_stored_anew_with_the_same_networks(as_before: Path, tmp_path: Path) -> None:
    shipped = open_bundle("edge")
    repack_bundle(as_before, tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    assert sum(bundle.file_bytes.values()) < 20e6
    assert set(bundle.file_bytes) == set(shipped.file_bytes)
    whole = sorted(path.name for path in as_before.glob("*.int8.weights"))
    assert len(whole) == 4
    for name in {*bundle.file_bytes, *whole} - {n for n in bundle.file_bytes if ".int8.npz" in n}:
        files = {weights_bytes(folder / name) for folder in (as_before, bundle.path, shipped.path)}
        assert len(files) == 1, name


def test_bundles_of_before_code_the_same(as_before: Path) -> None:
    x, y = textured_pair(64, 128, 4)
    found = []
    for path in (as_before, "edge"):
        with Encoder(f"{path}@int8") as encoder, Decoder(f"{path}@int8@sharp") as decoder:
            packet = encoder.encode(x)
            found.append((bytes(packet), decoder.decode(packet, y).image.tobytes()))
    assert found[0] == found[1]
