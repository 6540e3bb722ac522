"""`dsin evaluate`: real packets, the figures of the contract, pictures on request."""

import json
from pathlib import Path

import pytest
from support.block_bundle import write_block_bundle

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.errors import DsinError
from dsin.runtime.picture_files import read_image
from dsin.training import evaluate as evaluation
from dsin.training.data import Pair
from dsin.training.evaluate import FIGURES, evaluate_list


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


def test_an_unwritable_report_is_refused_at_once(tiny_bundle, pair_list, tmp_path):
    with pytest.raises(DsinError, match="cannot write"):
        evaluate_list(*pair_list, bundle=tiny_bundle, json_path=tmp_path / "none" / "r.json")


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
    evaluation.means_of_rates(bundle, small_pairs[:1])
    assert names == ["blocks, rate 0", "blocks, rate 1"]
