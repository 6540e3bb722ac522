"""Bundles run by PyTorch: what onnxruntime gives, and the entropy model to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_codec
from conftest import textured_pair
from graph_on_torch import TorchSession, sessions_on_torch
from stage import Orders, Report

from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.pictures import to_planes

RATE = np.array([1], np.int64)


@pytest.fixture(scope="module")
def bundle(edge_bundle: Path) -> Bundle:
    return open_bundle(edge_bundle)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_networks_are_those_of_onnxruntime(bundle: Bundle, half: bool) -> None:
    path = bundle.graph_path("encoder")
    x = to_planes(textured_pair(64, 128, 0)[0])
    found = TorchSession(path, "cpu", half=half).run(x=x, rate=RATE)
    expected = open_session(path).run(x=x, rate=RATE)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], atol=0.1 if half else 1e-4)


@pytest.mark.parametrize("name", ["hyper", "step0", "step1"])
def test_entropy_models_are_equal(bundle: Bundle, name: str) -> None:
    rng, path = np.random.default_rng(0), bundle.graph_path(name)
    given: dict[str, Any]
    if name == "hyper":
        given = {"z": rng.integers(-128, 128, (1, 8, 3, 5)).astype(np.float32), "rate": RATE}
    else:
        given = {
            "features": rng.integers(0, 1024, (1, 8, 12, 20)).astype(np.float32),
            "decoded": rng.integers(-1024, 1024, (1, 8, 12, 20)).astype(np.float32),
        }
    found, expected = TorchSession(path, "cpu").run(**given), open_session(path).run(**given)
    for output, array in found.items():
        np.testing.assert_array_equal(array, expected[output])


def test_half_precision_leaves_entropy_models_alone(bundle: Bundle) -> None:
    with sessions_on_torch("cpu", half=True):
        sessions: list[Any] = [open_session(bundle.graph_path(n)) for n in ("step0", "encoder")]
    kinds = [{str(c.dtype) for c in session._constants.values()} for session in sessions]
    assert "torch.float16" not in kinds[0]
    assert "torch.float16" in kinds[1]


def test_without_networks_only_entropy_models_move(bundle: Bundle) -> None:
    with sessions_on_torch("cpu", networks=False):
        providers = [open_session(bundle.graph_path(n)).provider for n in ("hyper", "encoder")]
    assert providers == ["PyTorch on cpu", "CPUExecutionProvider"]


def test_a_sum_that_is_off_by_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage fails where a backend's integers are not the CPU's."""
    plain = TorchSession.run

    def wrong(session: TorchSession, **inputs: object) -> dict[str, Any]:
        found = plain(session, **inputs)
        return {n: a + 3 * (n == "mean") for n, a in found.items()}

    monkeypatch.setattr(TorchSession, "run", wrong)
    orders = Orders(
        "codec", tmp_path, tmp_path / "r.json", tmp_path, 60, True, "edge", None, None, None
    )
    report = Report(orders)
    stage_codec.work(orders, report)
    assert "made by cpu, decoded by entropy" in report.failed
    assert "made by fp32, decoded by cpu" in report.failed
    assert "made by entropy, decoded by fp32" not in report.failed
