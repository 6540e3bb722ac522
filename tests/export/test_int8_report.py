"""The calibration report as a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from dsin.export.int8_report import SHOWN, plot_report

pyplot = pytest.importorskip("matplotlib.pyplot")
BLUE, ORANGE = (pytest.importorskip("matplotlib.colors").to_rgba(name) for name in ("C0", "C1"))


def layers(count: int) -> list[dict[str, Any]]:
    """Of growing harm, the one before the last in float, and one that was too large to measure."""
    measured = [{"name": f"conv{n}", "harm": n / 100, "in_float": n == count - 2}
                for n in range(count)]  # fmt: skip
    return [{"name": "large", "harm": None, "in_float": False}, *measured]


REPORT: dict[str, Any] = {
    "graphs": {
        "encoder": {"layers": layers(3), "relative_error": 0.0123},
        "fusion": {"layers": layers(SHOWN + 5), "relative_error": 0.2},
    },
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures, which are closed as soon as they are written."""
    figures: list[Any] = []
    with monkeypatch.context() as later:
        later.setattr(pyplot, "close", figures.append)
        yield figures
    for figure in figures:
        pyplot.close(figure)


def test_the_most_harmful_layers_of_each_graph_are_on_top(tmp_path: Path, drawn: list[Any]) -> None:
    plot_report(REPORT, tmp_path / "report.png")
    (figure,) = drawn
    first, second = figure.axes
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["encoder: error 1.2 %", "fusion: error 20 %"]
    names = [[label.get_text() for label in p.get_yticklabels()] for p in figure.axes]
    assert names == [["conv0", "conv1", "conv2"], [f"conv{n}" for n in range(5, SHOWN + 5)]]
    assert [bar.get_width() for bar in first.patches] == pytest.approx([0, 1, 2])
    assert [bar.get_facecolor() for bar in first.patches] == [BLUE, ORANGE, BLUE]
    assert [bar.get_facecolor() for bar in second.patches].index(ORANGE) == SHOWN - 2
    shape = cv2.imread(str(tmp_path / "report.png")).shape
    assert shape == (420, 880, 3)


@pytest.mark.parametrize(
    ("rate", "title"),
    [(1.234, "float and int8: +1.23 % BD-rate"), (None, "float and int8")],
)
def test_curves_of_both_have_a_panel_of_their_own(
    tmp_path: Path, drawn: list[Any], rate: float | None, title: str
) -> None:
    points = {
        name: [{"bpp": 0.1 * n, "psnr_db": 30 + n + worse} for n in range(3)]
        for name, worse in (("float", 0), ("int8", -1))
    }
    report = {**REPORT, "points": points, "bd_rate_percent": {"psnr": rate}}
    plot_report(report, tmp_path / "report.png")
    (figure,) = drawn
    panel = figure.axes[2]
    assert panel.get_title() == title
    curves = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert curves == {
        "float": [[0, 30], [0.1, 31], [0.2, 32]], "int8": [[0, 29], [0.1, 30], [0.2, 31]]
    }  # fmt: skip
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["float", "int8"]
