"""The picture of a run's losses: one panel for each logged quantity, over the steps."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dsin.training.curves import plot_curves


def test_a_panel_for_each_quantity_over_all_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    (tmp_path / "0.csv").write_text("epoch,step,loss,psnr\n0,10,3.5,\n0,20,2.5,30\n")
    (tmp_path / "1.csv").write_text("epoch,step,loss,psnr\n1,30,1.5,31\n")
    plot_curves([tmp_path / "1.csv", tmp_path / "0.csv"], tmp_path / "curves.png")
    (figure,) = drawn
    panels = {axis.get_ylabel(): axis.get_lines()[0].get_xydata() for axis in figure.axes}
    assert {name: points.tolist() for name, points in panels.items()} == {
        "loss": [[10, 3.5], [20, 2.5], [30, 1.5]],
        "psnr": [[20, 30], [30, 31]],
    }


def test_a_run_that_logged_nothing_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("epoch,step\n0,10\n")
    plot_curves([tmp_path / "0.csv"], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
