"""The portable body is dropped from a model, byte by byte, and nothing else."""

from pathlib import Path

import onnx
import pytest

from dsin.export import patch_correlation_op
from dsin.runtime.errors import BundleError
from dsin.runtime.onnx_functions import without_functions
from dsin.training.presets import Quirks, SearchConfig

SHIPPED = Path(__file__).resolve().parents[1] / "runtime" / "bundles" / "paper" / "decoder.onnx"


def standalone() -> bytes:
    return patch_correlation_op.standalone(SearchConfig(), Quirks()).SerializeToString()


@pytest.mark.parametrize("source", ["standalone", "shipped"])
def test_functions_are_dropped_and_nothing_else(source: str) -> None:
    data = standalone() if source == "standalone" else SHIPPED.read_bytes()
    expected = onnx.load_model_from_string(data)
    assert expected.functions
    del expected.functions[:]
    assert onnx.load_model_from_string(without_functions(data)) == expected


@pytest.mark.parametrize("damage", ["cut", "text", "endless number"])
def test_what_is_no_model_is_refused(damage: str) -> None:
    data = {
        "cut": standalone()[:-1],
        "text": b"not a model at all",
        "endless number": b"\xff" * 40,
    }[damage]
    with pytest.raises(BundleError, match="export it anew"):
        without_functions(data)
