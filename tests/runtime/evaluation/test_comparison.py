"""Comparison with other codecs: their pictures, BD-rates, and `--against` from end to end."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import textured_pair

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation import rivals as rival_codecs
from dsin.runtime.evaluation.comparison import (
    Point,
    bd_rates,
    plot_comparison,
    print_comparison,
)
from dsin.runtime.evaluation.crops import at_bytes, beside_rivals, busiest_place
from dsin.runtime.evaluation.evaluate import evaluate_list
from dsin.runtime.evaluation.rivals import Rival, rivals
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.panels import Panel, side_by_side

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


@pytest.mark.parametrize(
    ("wanted", "size"),
    [(7, 10), (24, 20), (26, 30), (100, 100), (104, 100), (106, 110), (999, 200)],
)
def test_equal_bytes_are_the_nearest_of_the_ladder(wanted: int, size: int) -> None:
    """As a ratio, over settings of 10, 20, … 200 bytes: 24.5 and 104.9 lie between two."""
    picture = np.zeros((8, 8, 3), np.uint8)
    rival = Rival("r", (1,), range(1, 21), lambda image, setting: (round(10 * setting), image))
    assert at_bytes(rival, picture, wanted).size == size


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


def test_a_bd_rate_of_curves_of_other_shapes() -> None:
    """As the library gives it with Akima's interpolation; with others -51 and -45."""
    rates = (0.021, 0.039, 0.094, 0.15, 0.33), (0.025, 0.06, 0.08, 0.21, 0.29)
    quality = (22.1, 24.9, 26.2, 29.0, 29.6), (21.5, 23.0, 25.6, 26.1, 29.9)
    ours, theirs = (
        [Point(n, r, q, None) for n, (r, q) in enumerate(zip(*two, strict=True))]
        for two in zip(rates, quality, strict=True)
    )
    assert bd_rates(ours, theirs)["psnr"] == pytest.approx(-62.435, abs=0.01)


def test_a_sheet_shows_the_same_cut_of_every_picture_at_equal_bytes() -> None:
    x = np.full((360, 640, 3), 90, np.uint8)
    x[200:216, 500:516] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    rival = Rival("r", (1,), range(1, 21), lambda image, setting: (round(10 * setting), image // 2))
    decoded = Decoded(x - 1, x - 2, None, None, True, None, {})
    top, left = busiest_place(x, (160, 400))
    captions = [
        (x, "original", "640x360"),
        (x - 1, "ours", f"57 bytes, {psnr_db(x - 1, x):.2f} dB"),
        (x - 2, "ours, no side image", f"57 bytes, {psnr_db(x - 2, x):.2f} dB"),
        (x // 2, "r", f"60 bytes, {psnr_db(x // 2, x):.2f} dB"),
    ]
    expected = side_by_side(
        [
            Panel(np.ascontiguousarray(image[top : top + 160, left : left + 400]), *words)
            for image, *words in captions
        ]
    )
    assert top > 0
    assert np.array_equal(beside_rivals(x, 57, decoded, [rival], "ours"), expected)


def test_containers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameter sets of HEVC, all but the media of AVIF, the header of WebP."""
    slices = b"\0\0\1\x26\1abc" + b"\0\0\1\x02\1de"
    sets = b"".join(b"\0\0\1" + bytes([kind << 1]) + b"\1xyz" for kind in (32, 33, 34, 39))
    assert rival_codecs._slice_bytes(sets + slices) == 15
    avif = b"\0\0\0\x0cftypavif" + b"\0\0\0\x1cmdat" + bytes(20) + b"\0\0\0\x08free"
    fake = SimpleNamespace(
        avif_encode=lambda *_, **__: avif, avif_decode=lambda data: data,
        webp_encode=lambda *_, **__: bytes(50), webp_decode=lambda data: data,
        jpeg2k_encode=lambda *_, **__: bytes(40), jpeg2k_decode=lambda data: data,
    )  # fmt: skip
    monkeypatch.setattr(rival_codecs, "_library", lambda name: fake)
    found = {r.name: r.code(np.zeros((8, 8, 3), np.uint8), 5)[0] for r in rivals(NAMES[1:4])}
    assert found == {"avif": 20, "jpeg2000": 40, "webp": 30}


def test_settings_that_a_cheaper_one_beats_change_nothing() -> None:
    worse = Point(9, 0.09, 22.5, 0.85)
    assert bd_rates(curve(0.5), [*curve(1.0), worse]) == bd_rates(curve(0.5), curve(1.0))


def test_curves_without_common_quality_have_no_bd_rate() -> None:
    better = [p._replace(psnr_db=p.psnr_db + 20, ms_ssim=None) for p in curve(1.0)]
    assert bd_rates(better, curve(1.0)) == {"psnr": None, "ms_ssim": None}


TWICE = [point._replace(encode_ms=9.6 + point.setting) for point in curve(2.0)]


def rows_of(printed: str) -> list[list[str]]:
    """The cells of a table as rich prints it, the header first."""
    return [
        [cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")]
        for line in printed.splitlines() if line[:1] in ("┃", "│")
    ]  # fmt: skip


def test_the_table_has_each_point_and_the_bd_rate_with_the_first_of_a_codec(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    small = [Point(0.5, 1.23456, 20.126, None), Point(7, 2, 30, None)]
    print_comparison("ours", curve(1.0)[:4], {"twice": TWICE, "small": small})
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].strip() == "ours and its rivals"
    assert rows_of(printed) == [
        ["codec", "setting", "bpp", "PSNR dB", "MS-SSIM", "encoder ms", "BD-rate PSNR", "MS-SSIM"],
        ["ours", "0", "0.0200", "22.00", "0.8400", "", "", ""],
        ["", "1", "0.0400", "23.20", "0.8800", "", "", ""],
        ["", "2", "0.0800", "24.40", "0.9100", "", "", ""],
        ["", "3", "0.1600", "25.60", "0.9325", "", "", ""],
        ["twice", "0", "0.0400", "22.00", "0.8400", "10", "-50.0 %", "-50.0 %"],
        ["", "1", "0.0800", "23.20", "0.8800", "11", "", ""],
        ["", "2", "0.1600", "24.40", "0.9100", "12", "", ""],
        ["", "3", "0.3200", "25.60", "0.9325", "13", "", ""],
        ["", "4", "0.6400", "26.80", "0.9494", "14", "", ""],
        ["small", "0.5", "1.2346", "20.13", "", "", "", ""],
        ["", "7", "2.0000", "30.00", "", "", "", ""],
    ]
    assert "│       │       7 │ 2.0000 │" in printed  # figures stand at the right


def test_the_table_has_no_column_of_times_that_nobody_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_comparison("ours", curve(1.0)[:1], {"twice": curve(2.0)[1:2]})
    assert rows_of(capsys.readouterr().out) == [
        ["codec", "setting", "bpp", "PSNR dB", "MS-SSIM", "BD-rate PSNR", "MS-SSIM"],
        ["ours", "0", "0.0200", "22.00", "0.8400", "", ""],
        ["twice", "1", "0.0800", "23.20", "0.8800", "", ""],
    ]


def test_the_plot_has_a_line_for_each_codec_in_both_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is bold and of one colour; where MS-SSIM is unknown there is no point. Nothing opens a
    window, whatever the backend was."""
    import cv2
    from matplotlib import pyplot

    closed: list[Any] = []
    monkeypatch.setattr(pyplot, "close", closed.append)
    pyplot.switch_backend("svg")
    half = [Point(1, 0.1, 30, 0.9), Point(2, 0.2, 40, None)]
    others = {"hevc": [Point(3, 0.05, 20, 0.99)], "jpeg": [Point(4, 0.3, 25, 0.9)]}
    plot_comparison(tmp_path / "curves.png", "ours", half, others, [Point(1, 0.1, 28, 0.5)])
    (figure,) = closed
    assert (pyplot.get_backend().lower(), figure.get_constrained_layout()) == ("agg", True)
    psnr, ssim = figure.axes
    assert psnr.xaxis.get_gridlines()[0].get_visible()
    styles = [
        (line.get_label(), line.get_color(), line.get_linestyle(), line.get_marker(),
         line.get_linewidth())
        for line in psnr.get_lines()
    ]  # fmt: skip
    assert styles == [
        ("ours", "C0", "-", "o", 2.2), ("ours, no side image", "C0", "--", "o", 2.2),
        ("hevc", "C1", "-", ".", 1.3), ("jpeg", "C2", "-", ".", 1.3),
    ]  # fmt: skip
    drawn = [[line.get_xydata().tolist() for line in panel.get_lines()] for panel in figure.axes]
    assert drawn[0] == [[[0.1, 30], [0.2, 40]], [[0.1, 28]], [[0.05, 20]], [[0.3, 25]]]
    shown = [[(x, pytest.approx(y)) for x, y in line] for line in drawn[1]]
    assert shown == [[(0.1, 10)], [(0.1, 3.0103)], [(0.05, 20)], [(0.3, 10)]]
    assert [panel.get_ylabel() for panel in figure.axes] == ["PSNR (dB)", "MS-SSIM (dB)"]
    assert {panel.get_xlabel() for panel in figure.axes} == {"bits per pixel"}
    assert {panel.get_xlim() for panel in figure.axes} == {(0, 0.3)}
    assert psnr.get_legend() is None
    assert [text.get_text() for text in ssim.get_legend().get_texts()] == [s[0] for s in styles]
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (495, 1210, 3)


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


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    curve = [Point(n, 0.1 * n, 30.0 + n, 0.9) for n in range(1, 6)]
    with pytest.raises(DsinError) as missing:
        bd_rates(curve, curve)
    assert str(missing.value) == "bjontegaard is not installed: pip install 'dsin[evaluate]'"
