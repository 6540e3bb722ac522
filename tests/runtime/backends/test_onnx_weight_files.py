"""Names of files with weights are read from a model without the package onnx, or it is refused."""

from pathlib import Path

import onnx
import pytest

from dsin.export import patch_correlation_op
from dsin.runtime.backends.onnx_weight_files import weight_files
from dsin.runtime.errors import BundleError
from dsin.runtime.patch_correlation.options import SearchOptions

SHIPPED = (
    Path(__file__).resolve().parents[3] / "runtime" / "codec" / "bundles" / "paper" / "decoder.onnx"
)


def standalone() -> bytes:
    """A model that keeps no weights elsewhere."""
    return patch_correlation_op.standalone(SearchOptions()).SerializeToString()


def test_a_model_may_have_no_such_file() -> None:
    assert weight_files(standalone()) == set()


def test_every_tensors_file_is_named_once() -> None:
    tensors = onnx.load(SHIPPED, load_external_data=False).graph.initializer
    names = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    assert names == {"decoder.weights"}
    assert weight_files(SHIPPED.read_bytes()) == names


@pytest.mark.parametrize("damage", ["cut", "text", "endless number"])
def test_what_is_no_model_is_refused(damage: str) -> None:
    data = {
        "cut": standalone()[:-1],
        "text": b"not a model at all",
        "endless number": b"\xff" * 40,
    }[damage]
    with pytest.raises(BundleError, match="export it anew"):
        weight_files(data)
