"""`dsin evaluate`: real packets, the figures of the contract, pictures on request."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.block_bundle import write_block_bundle

from dsin.runtime import Encoder, Packet, open_bundle
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation import evaluate as evaluation
from dsin.runtime.evaluation.comparison import Point
from dsin.runtime.evaluation.evaluate import FIGURES, curve, evaluate, evaluate_list, means_of_rates
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.evaluation.rivals import Rival
from dsin.runtime.files import write_image
from dsin.runtime.metrics import psnr_db
from dsin.runtime.picture_files import read_image
from dsin.runtime.sources.synthetic_rig import SyntheticRig


@pytest.fixture
def pair_list(small_pairs, tmp_path):
    root = small_pairs[0].x.parent
    listed = tmp_path / "pairs.txt"
    listed.write_text("".join(f"{p.x.name}\n{p.y.name}\n" for p in small_pairs[:2]))
    return listed, root


def test_report_and_pictures(tiny_bundle, pair_list, tmp_path):
    report = evaluate_list(
        *pair_list, bundle=tiny_bundle, crop=(80, 96), json_path=tmp_path / "report.json",
        save_images=tmp_path / "pictures",
    )  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert set(report) == {"bundle", "images", "mean"}
    assert set(report["mean"]) == set(FIGURES)
    for image in report["images"]:
        assert set(image) == {"pair", "width", "height", *FIGURES}
        assert (image["width"], image["height"]) == (96, 80)
        assert image["bpp"] == 8 * image["bytes"] / (96 * 80)
        assert image["ms_ssim"] is None  # too small for five scales
    bits = [image["bpp"] for image in report["images"]]
    assert report["mean"]["bpp"] == pytest.approx(sum(bits) / 2)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures[:4]] == [
        f"0000_0_left_{name}.png" for name in ("result", "x", "x_dec", "y_syn")
    ]
    assert all(read_image(p).shape == (80, 96, 3) for p in pictures)


@pytest.mark.parametrize("kind", ["json_path", "plot"])
def test_an_unwritable_report_is_refused_at_once(pair_list, tmp_path, kind, capsys):
    """Before the bundle is even looked for."""
    with pytest.raises(DsinError, match="its folder is missing or read-only"):
        evaluate_list(*pair_list, bundle="nix", **{kind: tmp_path / "none" / "r"})
    assert capsys.readouterr().out == ""


def test_each_bar_of_progress_is_named(
    tmp_path: Path, small_pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once `--against` showed nine that were called the same."""
    names: list[str] = []

    def track(items: list[Pair], description: str) -> list[Pair]:
        names.append(description)
        return items

    monkeypatch.setattr(evaluation, "track", track)
    bundle = open_bundle(write_block_bundle(tmp_path / "blocks"))
    means_of_rates(bundle, small_pairs[:1])
    assert names == ["blocks, rate 0", "blocks, rate 1"]


# Figures that are known beforehand. The hand-made bundle codes a picture of 100 as one of 102, and
# its result is the mean of that and the side image: 71 where that is 40.

BY_HAND = {
    "psnr_db": 18.882844,  # 20 log10(255 / 29)
    "psnr_db_no_side": 42.110203,  # 20 log10(255 / 2)
    # (2ab + c) / (aa + bb + c) to the power of 0.1333, with c = 6.5025
    "ms_ssim": 0.992363,
    "ms_ssim_no_side": 0.999974,
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_block_bundle(tmp_path_factory.mktemp("evaluate") / "blocks"))


@pytest.fixture(scope="module")
def flat_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """x of 100 and y of 40, 176x192."""
    folder = tmp_path_factory.mktemp("flat")
    files = [folder / "x.png", folder / "y.png"]
    for file, level in zip(files, (100, 40), strict=True):
        write_image(file, np.full((176, 192, 3), level, np.uint8))
    return Pair(*files)


@pytest.mark.parametrize(
    ("error", "decibels"), [(1, 48.130804), (6, 32.567779), (255, 0.0), (0, 100.0)]
)
def test_psnr_of_one_error_everywhere(error: int, decibels: float) -> None:
    picture = np.full((8, 16, 3), error, np.uint8)
    assert psnr_db(picture, np.zeros_like(picture)) == pytest.approx(decibels, abs=1e-5)
    assert psnr_db(np.zeros_like(picture), picture) == pytest.approx(decibels, abs=1e-5)


def test_psnr_is_over_all_colours() -> None:
    """An error of 6 in one of three: 36 / 3."""
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :, 1] = 6
    assert psnr_db(picture, np.zeros_like(picture)) == pytest.approx(37.338991, abs=1e-5)


def test_figures_of_a_pair_with_and_without_its_side_image(
    blocks: Bundle, flat_pair: Pair, tmp_path: Path
) -> None:
    report = evaluate(blocks, [flat_pair, flat_pair], save_images=tmp_path)
    for figures in (*report["images"], report["mean"]):
        found = {name: figures[name] for name in BY_HAND}
        # float32 has some 1e-4 of noise in the variance of a flat picture.
        assert found == pytest.approx(BY_HAND, abs=4e-4)
    for name, level in {"x": 100, "x_dec": 102, "y_syn": 40, "result": 71}.items():
        assert np.unique(read_image(tmp_path / f"0000_x_{name}.png")).tolist() == [level]


def test_a_cut_is_of_both_views(blocks: Bundle, flat_pair: Pair) -> None:
    report = evaluate(blocks, [flat_pair], crop=(80, 96))
    assert report["mean"]["psnr_db"] == pytest.approx(BY_HAND["psnr_db"], abs=1e-5)
    assert report["mean"]["ms_ssim"] is None


def test_encoding_and_decoding_are_timed_apart(
    blocks: Bundle, flat_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([7.0, 7.002, 7.007])
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    figures = evaluate(blocks, [flat_pair])["images"][0]
    assert figures["encode_ms"] == pytest.approx(2)
    assert figures["decode_ms"] == pytest.approx(5)


@pytest.fixture
def coded_rates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the rate of each packet that is coded."""
    rates: list[int] = []

    class Noting(Encoder):
        def encode(self, *arguments: object, **options: object) -> Packet:
            packet = super().encode(*arguments, **options)  # type: ignore[arg-type]
            rates.append(packet.header.rate)
            return packet

    monkeypatch.setattr(evaluation, "Encoder", Noting)
    return rates


def test_the_rate_is_what_was_asked_for(
    blocks: Bundle, flat_pair: Pair, coded_rates: list[int]
) -> None:
    evaluate(blocks, [flat_pair], rate=0)
    evaluate(blocks, [flat_pair])
    assert coded_rates == [0, 1]


def test_rates_are_measured_from_the_lowest_up(
    blocks: Bundle, flat_pair: Pair, coded_rates: list[int]
) -> None:
    means = means_of_rates(blocks, [flat_pair], crop=(80, 96))
    assert coded_rates == [0, 1]
    assert [m["psnr_db_no_side"] for m in means] == pytest.approx([42.110203] * 2)


def means(bits: float, gain_db: float) -> list[dict[str, float]]:
    """Five rates at `bits` times those of a rival, whose quality they have without side image."""
    return [
        {
            "bpp": bits * 0.02 * 2**n, "psnr_db": 22 + n + gain_db, "psnr_db_no_side": 22.0 + n,
            "ms_ssim": 1 - 0.16 * 0.5**n * 10 ** (-gain_db / 10),
            "ms_ssim_no_side": 1 - 0.16 * 0.5**n,
        }
        for n in range(5)
    ]  # fmt: skip


def test_a_curve_is_with_the_side_image_or_without() -> None:
    two = means(1.0, 3.0)[:2]
    assert curve(two) == [
        Point(0, 0.02, 25, two[0]["ms_ssim"]),
        Point(1, 0.04, 26, two[1]["ms_ssim"]),
    ]
    assert curve(two, side=False) == [Point(0, 0.02, 22, 0.84), Point(1, 0.04, 23, 0.92)]


def test_rates_against_a_rival_with_the_side_image_and_without(
    blocks: Bundle, flat_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One decibel is one doubling of the rate: without a side image half of the rival's bits are
    enough, and the side image halves them again."""
    monkeypatch.setattr(evaluation, "means_of_rates", lambda *_, **__: means(1.0, 1.0))
    rival = curve(means(2.0, 0.0), side=False)
    monkeypatch.setattr(evaluation, "rival_curve", lambda *_: rival)
    drawn = {}

    def draw(path: Path, name: str, ours: object, others: object, alone: object) -> None:
        drawn.update(name=name, ours=ours, alone=alone)

    monkeypatch.setattr(evaluation, "plot_comparison", draw)
    (tmp_path / "list.txt").write_text(f"{flat_pair.x}\n{flat_pair.y}\n")
    report = evaluate_list(
        tmp_path / "list.txt", tmp_path, bundle=blocks.path, against=["jpeg"],
        plot=tmp_path / "plot.png",
    )  # fmt: skip
    assert report["bd_rate"]["jpeg"]["psnr"] == pytest.approx(-75)
    assert report["bd_rate_no_side"]["jpeg"]["psnr"] == pytest.approx(-50)
    assert report["bd_rate_no_side"]["jpeg"]["ms_ssim"] == pytest.approx(-50)
    # 1 - MS-SSIM halves with each doubling of the rate: 3.01 dB, and 1 dB is a third of that.
    assert report["bd_rate"]["jpeg"]["ms_ssim"] == pytest.approx(-60.28, abs=0.05)
    assert report["rates"] == means(1.0, 1.0)
    assert [p["bpp"] for p in report["rivals"]["jpeg"]] == [0.04, 0.08, 0.16, 0.32, 0.64]
    assert drawn == {
        "name": "blocks", "ours": curve(means(1.0, 1.0)),
        "alone": curve(means(1.0, 1.0), side=False),
    }  # fmt: skip
    assert "-75.0" in capsys.readouterr().out


def test_what_is_printed(
    blocks: Bundle, flat_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation.print_mean(evaluate(blocks, [flat_pair]))
    packet = Encoder(blocks).encode(read_image(flat_pair.x))
    first, aided, alone = capsys.readouterr().out.splitlines()[-3:]
    assert first == f"1 images with blocks: {8 * len(packet) / (176 * 192):.4f} bpp"
    assert aided.lstrip().startswith("with side information: PSNR 18.88 dB, MS-SSIM 0.99")
    assert alone.lstrip().startswith("without: PSNR 42.11 dB, MS-SSIM ")


def test_a_row_for_each_pair_says_whether_its_side_image_was_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A view of the same scene, and one of another."""
    scene = next(iter(SyntheticRig(width=208, height=176, frames=1)))
    other = np.random.default_rng(0).integers(0, 256, (176, 208, 3), np.uint8)
    for name, picture in (("x", scene.left), ("y", scene.right), ("other", other)):
        write_image(tmp_path / f"{name}.png", picture)
    (tmp_path / "list.txt").write_text("x.png\ny.png\nx.png\nother.png\n")
    report = evaluate_list(
        tmp_path / "list.txt", tmp_path, bundle="edge", json_path=tmp_path / "report.json"
    )
    assert [image["used_side"] for image in report["images"]] == [True, False]
    assert report["mean"]["used_side"] == 0.5
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [image["used_side"] for image in stored["images"]] == [True, False]
    header, used, unused = capsys.readouterr().out.splitlines()[-6:-3]
    assert header.split() == [
        "bytes", "bpp", "PSNR", "dB", "MS-SSIM", "without:", "dB", "MS-SSIM", "side", "image",
        "picture",
    ]  # fmt: skip
    for row, image, verdict in zip(
        (used, unused), report["images"], (["used"], ["another", "scene"]), strict=True
    ):
        figures = [
            str(image["bytes"]), f"{image['bpp']:.4f}", f"{image['psnr_db']:.2f}",
            f"{image['ms_ssim']:.4f}", f"{image['psnr_db_no_side']:.2f}",
            f"{image['ms_ssim_no_side']:.4f}",
        ]  # fmt: skip
        assert row.split() == [*figures, *verdict, "x.png"]


def test_every_rate_has_the_figures_of_each_pair(blocks: Bundle, flat_pair: Pair) -> None:
    for means in means_of_rates(blocks, [flat_pair, flat_pair], crop=(80, 96)):
        assert means["used_side"] == 1
        assert [image["used_side"] for image in means["images"]] == [True, True]
        assert means["bpp"] == means["images"][0]["bpp"]


def test_a_rivals_curve_is_the_mean_over_pictures() -> None:
    """Of 60 and 120 bytes for 176x192 pixels; errors of 1 and of 30 levels."""
    pictures = [np.full((176, 192, 3), level, np.uint8) for level in (100, 100)]
    sizes = iter([60, 120])

    def code(picture: np.ndarray, setting: float) -> tuple[int, np.ndarray]:
        size = next(sizes)
        return size, picture + np.uint8(1 if size == 60 else 30)

    (point,) = evaluation.rival_curve(Rival("r", (7,), (7,), code), pictures)
    assert point.setting == 7
    assert point.bpp == pytest.approx(8 * 90 / (176 * 192))
    assert point.psnr_db == pytest.approx((48.130804 + 18.588379) / 2)
    # (2ab + c) / (aa + bb + c) to the power of 0.1333 again
    assert point.ms_ssim == pytest.approx(0.99773, abs=4e-4)
