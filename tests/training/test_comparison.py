"""Comparison with other codecs: their pictures, BD-rates, and `--against` from end to end."""

from pathlib import Path

import numpy as np
import pytest
from conftest import textured_pair

from dsin.runtime.errors import DsinError
from dsin.runtime.metrics import psnr_db
from dsin.training.comparison import Point, bd_rates
from dsin.training.crops import at_bytes, busiest_place
from dsin.training.evaluate import evaluate_list
from dsin.training.rivals import rivals

NAMES = ["hevc", "avif", "jpeg2000", "webp", "jpeg"]


@pytest.mark.parametrize("name", NAMES)
def test_more_bytes_give_a_better_picture(name: str) -> None:
    picture, _ = textured_pair(128, 192, 1)
    (rival,) = rivals([name])
    few, many = (rival.code(picture, rival.settings[n]) for n in (0, -1))
    assert 0 < few[0] < many[0] < picture.size
    assert few[1].shape == picture.shape
    assert psnr_db(np.ascontiguousarray(few[1]), picture) < psnr_db(
        np.ascontiguousarray(many[1]), picture
    )


@pytest.mark.parametrize("name", NAMES)
def test_equal_bytes_are_as_near_as_the_codec_can(name: str) -> None:
    picture, _ = textured_pair(128, 192, 1)
    (rival,) = rivals([name])
    for wanted in (1, 2500, 10**9):
        found = at_bytes(rival, picture, wanted)
        size, _ = rival.code(picture, found.setting)
        assert size == found.size
        if wanted == 2500:
            assert 0.8 < found.size / wanted < 1.25
    assert found.setting == rival.ladder[-1]


def test_the_cut_is_where_the_edges_are() -> None:
    picture = np.full((320, 640, 3), 90, np.uint8)
    assert busiest_place(picture[:100, :100], (160, 400)) == (0, 0)
    picture[200:216, 500:516] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    top, left = busiest_place(picture, (64, 96))
    assert 216 - 64 <= top <= 200
    assert 516 - 96 <= left <= 500


@pytest.mark.parametrize("name", NAMES)
def test_any_size_goes(name: str) -> None:
    picture = textured_pair(128, 192, 1)[0][:75, :99]
    (rival,) = rivals([name])
    size, decoded = rival.code(np.ascontiguousarray(picture), rival.settings[-1])
    assert size > 0
    assert decoded.shape == picture.shape


def test_an_unknown_rival_is_refused() -> None:
    with pytest.raises(DsinError, match="bpg"):
        rivals(["hevc", "bpg"])


def curve(factor: float) -> list[Point]:
    return [Point(n, factor * 0.02 * 2**n, 22 + 1.2 * n, 1 - 0.16 * 0.75**n) for n in range(5)]


def test_half_the_bits_are_minus_fifty_percent() -> None:
    assert bd_rates(curve(0.5), curve(1.0)) == pytest.approx({"psnr": -50, "ms_ssim": -50})
    assert bd_rates(curve(1.0), curve(1.0)) == pytest.approx({"psnr": 0, "ms_ssim": 0}, abs=1e-6)


def test_settings_that_a_cheaper_one_beats_change_nothing() -> None:
    worse = Point(9, 0.09, 22.5, 0.85)
    assert bd_rates(curve(0.5), [*curve(1.0), worse]) == bd_rates(curve(0.5), curve(1.0))


def test_curves_without_common_quality_have_no_bd_rate() -> None:
    better = [p._replace(psnr_db=p.psnr_db + 20, ms_ssim=None) for p in curve(1.0)]
    assert bd_rates(better, curve(1.0)) == {"psnr": None, "ms_ssim": None}


def test_the_report_has_curves_and_a_plot(tiny_bundle: Path, tmp_path: Path) -> None:
    import cv2

    files = [tmp_path / name for name in ("left.png", "right.png")]
    for file, view in zip(files, textured_pair(176, 200, 2), strict=True):
        cv2.imwrite(str(file), view[:, :, ::-1])
    (tmp_path / "list.txt").write_text("left.png\nright.png\n")
    report = evaluate_list(
        tmp_path / "list.txt", tmp_path, bundle=tiny_bundle, against=["jpeg"],
        plot=tmp_path / "curves.png", json_path=tmp_path / "report.json",
        save_images=tmp_path / "pictures",
    )  # fmt: skip
    assert len(list((tmp_path / "pictures").glob("*_against.png"))) == 1
    assert [point["bpp"] for point in report["rivals"]["jpeg"]] == sorted(
        point["bpp"] for point in report["rivals"]["jpeg"]
    )
    assert len(report["rates"]) == 1
    assert report["bd_rate"]["jpeg"] == {"psnr": None, "ms_ssim": None}  # one rate is no curve
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.json").is_file()
