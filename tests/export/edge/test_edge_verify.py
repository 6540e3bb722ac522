"""How far each output of an edge bundle may be from PyTorch's, and what is counted."""

import numpy as np
import pytest

from dsin.export.edge.verify import _compare
from dsin.export.verify import PICTURE_TOLERANCE, Comparison


@pytest.mark.parametrize(
    ("graph", "output", "tolerance"),
    [
        ("hyper", "features", 0.0),
        ("step1", "mean", 0.0),
        ("x_decoder", "x_dec", PICTURE_TOLERANCE),
        ("fusion", "x_hat", PICTURE_TOLERANCE),
        ("x_decoder", "features", 0.004),
        ("encoder", "y", 0.004),
    ],
)
def test_each_output_has_its_tolerance(graph: str, output: str, tolerance: float) -> None:
    expected = np.array([-4.0, 1.0, 2.0, 3.0], np.float32)
    found = _compare(graph, output, expected + np.array([0, 0, -2, 1], np.float32), expected)
    assert found == Comparison(f"{graph} {output}", pytest.approx(tolerance), 2.0, 0.75, 2, 4)


def test_another_size_differs_in_everything() -> None:
    found = _compare("encoder", "y", np.zeros((1, 3)), np.zeros((1, 2)))
    assert found == Comparison("encoder y", 0, np.inf, np.inf, 3, 3)
    assert not found
