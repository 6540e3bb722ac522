"""BD-rates in the README and on the models' page are those of the points that stand beside them."""

import json
import re
from pathlib import Path

import pytest

from dsin.runtime.evaluation.comparison import Point, bd_rates

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": ROOT / "README.md", "models.md": ROOT / ".docs" / "models.md"}
RIVALS = {
    name: [Point(float(setting), *point) for setting, point in points.items()]
    for name, points in json.loads((ROOT / "tests" / "golden" / "rivals.json").read_text()).items()
}
NUMBER = re.compile(r"[-+]?\d+\.\d+")


def rows(page: str, header: str) -> list[str]:
    """Of the table whose header begins so."""
    text = PAGES[page].read_text()
    assert text.count(f"\n| {header} |") == 1
    table = text.split(f"\n| {header} |")[1].split("\n\n")[0]
    return table.splitlines()[2:]


def points(bundle: str, page: str = "models.md") -> tuple[list[Point], list[Point]]:
    """With the side image and without, as the page has them."""
    curves: tuple[list[Point], list[Point]] = [], []
    for row in rows(page, f"`{bundle}`, rate"):
        rate = int(row.split("|")[1].split()[0])
        bpp, psnr, ssim, psnr_alone, ssim_alone = map(float, NUMBER.findall(row))
        curves[0].append(Point(rate, bpp, psnr, ssim))
        curves[1].append(Point(rate, bpp, psnr_alone, ssim_alone))
    return curves


def test_the_readme_has_points_of_the_models_page() -> None:
    for mine, whole in zip(points("edge", "README.md"), points("edge"), strict=True):
        assert [point.setting for point in whole] == list(range(8))
        assert len(mine) == 4
        assert set(mine) <= set(whole)


@pytest.mark.parametrize("page", list(PAGES))
def test_bd_rates_are_those_of_the_points(page: str) -> None:
    seen = []
    for row in rows(page, "BD-rate of `edge` against"):
        label, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        bundle = "edge-structure" if "`edge-structure`" in label else "edge"
        rival = "HEVC" if bundle != "edge" else re.split(r" 4:2:0| intra| \(", label)[0]
        aided, alone = (bd_rates(curve, RIVALS[rival]) for curve in points(bundle))
        expected = [aided["psnr"], aided["ms_ssim"], alone["psnr"], alone["ms_ssim"]]
        shown = [float(number) for cell in cells for number in NUMBER.findall(cell)]
        assert len(shown) == (3 if page == "README.md" else 4)
        assert shown == pytest.approx(expected[: len(shown)], abs=0.051), row
        seen.append(rival if bundle == "edge" else bundle)
    assert seen[:3] == ["HEVC", "AVIF", "JPEG 2000"]
    assert seen[-1] == "edge-structure"
