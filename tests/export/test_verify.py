"""How far outputs of the paper's graphs may be from PyTorch's, and what is counted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsin.export.verify import PICTURE_TOLERANCE, SYMBOL_MARGIN, Comparison, _picture, _symbols


def test_a_picture_of_another_size_differs_in_everything() -> None:
    found = _picture("x_dec", np.zeros((2, 3)), np.zeros((2, 2)))
    assert found == Comparison("x_dec", PICTURE_TOLERANCE, np.inf, np.inf, 6, 6)
    assert not found


def test_differences_of_pictures_are_counted() -> None:
    found = _picture("x_dec", np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.5, 1.0, 4.0]))
    assert found == Comparison("x_dec", PICTURE_TOLERANCE, 2.0, 0.625, 2, 4)
    empty = _picture("x_dec", np.zeros((0, 3)), np.zeros((0, 3)))
    assert empty == Comparison("x_dec", PICTURE_TOLERANCE, 0.0, 0.0, 0, 0)
    assert empty


def test_a_symbol_differs_by_how_much_nearer_the_other_centre_would_have_been() -> None:
    """0.6 lies 0.4 from 1 and 0.6 from 0."""
    expected: Any = SimpleNamespace(z=np.array([[0.4, 0.6]]), symbols=np.array([[1, 2]]))
    found = _symbols(np.array([[1, 1]]), expected, np.array([-1.0, 0.0, 1.0]))
    largest, mean = pytest.approx(0.2), pytest.approx(0.1)
    assert found == Comparison("encoder symbols", SYMBOL_MARGIN, largest, mean, 1, 2)
    assert not found
