"""Pair lists, crops and presets: what is read, and what is refused."""

import dataclasses
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dsin.runtime.errors import CheckpointError, FrameError
from dsin.runtime.evaluation.pairs import Pair, read_pair_list
from dsin.runtime.files import write_image
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import centre_crop
from dsin.training import data as data_module
from dsin.training.data import CentredPairs, RandomPairs
from dsin.training.presets import (
    EdgePreset,
    Preset,
    Quirks,
    load_preset,
    preset_from_dict,
    preset_names,
    preset_to_dict,
)


def write_list(folder: Path, *names: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text("\n".join(names) + "\n")
    return path


def test_a_list_alternates_x_and_y(tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        (tmp_path / name).touch()
    listed = write_list(tmp_path, "a.png", "b.png", "", "c.png", "d.png")
    pairs = read_pair_list(listed, tmp_path)
    assert pairs == [
        Pair(tmp_path / "a.png", tmp_path / "b.png"),
        Pair(tmp_path / "c.png", tmp_path / "d.png"),
    ]


@pytest.mark.parametrize("names", [("a.png",), ("a.png", "a.png", "a.png"), ("",)])
def test_a_list_without_whole_pairs_is_refused(tmp_path, names):
    (tmp_path / "a.png").touch()
    with pytest.raises(FrameError, match=r"has \d paths: expected x and y in turn"):
        read_pair_list(write_list(tmp_path, *names), tmp_path)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(FrameError, match=r"pairs.txt names .*gone\.png, which does not exist"):
        read_pair_list(write_list(tmp_path, "a.png", "gone.png"), tmp_path)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(FrameError, match="there is no pair list"):
        read_pair_list(tmp_path / "none.txt", tmp_path)


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(FrameError, match="is not a text file"):
        read_pair_list(tmp_path / "image.png", tmp_path)


def test_centre_crop_as_in_the_original():
    """375×1242 to 320×1224 starts at row 27 and column 9."""
    image = np.zeros((375, 1242, 3), np.uint8)
    image[27, 9] = 1
    cropped = centre_crop(image, (320, 1224))
    assert cropped.shape == (320, 1224, 3)
    assert cropped[0, 0].tolist() == [1, 1, 1]
    with pytest.raises(FrameError, match="cannot crop 320x1250 from an image of 375x1242"):
        centre_crop(image, (320, 1250))


def test_both_views_are_cut_at_the_same_place_or_swapped_and_mirrored(small_pairs):
    x_whole, y_whole = (read_image(p).astype(int) for p in (small_pairs[0].x, small_pairs[0].y))
    kinds = set()
    for x, y in islice(RandomPairs(small_pairs[:1], (40, 48), seed=(1,)), 12):
        x, y = (t.numpy().transpose(1, 2, 0).astype(int) for t in (x, y))
        if (place := find(x_whole, x)) is not None:
            kinds.add("as it is")
            assert find(y_whole, y) == place
        else:
            kinds.add("swapped")
            assert find(y_whole, x[:, ::-1]) == find(x_whole, y[:, ::-1]) is not None
    assert kinds == {"as it is", "swapped"}


def test_half_of_the_crops_are_swapped_and_all_places_come(tmp_path: Path) -> None:
    """x is dark and y bright, and each row and column has a level of its own."""
    row, col = np.indices((8, 10))
    for name, base in (("x", 0), ("y", 100)):
        levels = np.stack([base + row, base + col, np.full_like(row, base)], -1)
        write_image(tmp_path / f"{name}.png", levels.astype(np.uint8))
    pairs = [Pair(tmp_path / "x.png", tmp_path / "y.png")]
    drawn = [x for x, _ in islice(RandomPairs(pairs, (4, 5), seed=(1,)), 400)]
    swapped = sum(bool(x[2, 0, 0] == 100) for x in drawn)
    assert 160 < swapped < 240
    assert {float(x[0, 0, 0]) for x in drawn} == {*range(5), *range(100, 105)}
    assert {float(x[1].min()) for x in drawn} == {*range(6), *range(100, 106)}


def test_workers_of_one_seed_draw_other_crops(
    small_pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(worker: int | None) -> list[float]:
        info = None if worker is None else SimpleNamespace(id=worker)
        monkeypatch.setattr(data_module, "get_worker_info", lambda: info)
        return [float(x.sum()) for x, _ in islice(RandomPairs(small_pairs, (40, 48), seed=(1,)), 3)]

    assert first(None) == first(0)
    assert first(0) != first(1)


def find(whole: np.ndarray, part: np.ndarray) -> tuple[int, int] | None:
    rows, cols = part.shape[:2]
    starts = np.argwhere((whole[: 1 - rows, : 1 - cols] == part[0, 0]).all(-1))
    for r, c in starts:
        if (whole[r : r + rows, c : c + cols] == part).all():
            return int(r), int(c)
    return None


def test_crops_follow_the_seed(small_pairs):
    def first(*seed: int) -> list[float]:
        crops = islice(RandomPairs(small_pairs, (40, 48), seed=seed), 3)
        return [float(x.sum()) for x, _ in crops]

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(1, 1)


def test_crops_larger_than_the_image_are_refused(small_pairs):
    with pytest.raises(FrameError, match="cannot crop 320x960 from 120x168"):
        next(iter(RandomPairs(small_pairs, (320, 960), seed=(1,))))


def test_centred_pairs_keep_the_order(small_pairs):
    data = CentredPairs(small_pairs, (80, 96))
    assert len(data) == 4
    x, y = data[2]
    expected = centre_crop(read_image(small_pairs[2].x), (80, 96))
    np.testing.assert_array_equal(x.numpy().transpose(1, 2, 0), expected)
    assert y.shape == (3, 80, 96)


def test_shipped_presets_load_and_survive_as_plain_data():
    assert {"paper", "paper_cpu"} <= set(preset_names())
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert preset.phases
        assert preset_from_dict(preset_to_dict(preset)) == preset


def test_a_preset_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[search]\nmeasure = 'l2'\npatch = [10, 12]\n[loss]\nbeta = 2\n")
    preset = load_preset(str(path))
    assert (preset.name, preset.seed, preset.loss.beta) == ("mine", 3, 2.0)
    assert (preset.search.measure, preset.search.patch) == ("l2", (10, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "preset has no key 'colour'"),
        ("[loss]\nbeta = 'much'", "preset.loss.beta cannot be 'much'"),
        ("[loss]\nbeta = true", "preset.loss.beta cannot be True"),
        ("[loss]\ndistortion = 'l1'", "preset.loss.distortion cannot be 'l1': expected mae, mse"),
        ("[search]\npatch = [20]", "preset.search.patch cannot be"),
        ("search = 4", "preset.search must be a table"),
        ("[[phases]]\nsteps = 3", "preset.phases has no name"),
        ("seed = ", "is not valid TOML"),
    ],
)
def test_a_wrong_preset_names_the_key(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(CheckpointError) as raised:
        load_preset(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ("measure = 'l2'", "search: measure must be pearson, not l2"),
        ("stretched = true", "search: stretched patches and an off-centre prior are for the paper"),
        ("off_centre = true", "search: stretched patches and an off-centre prior are for the pap"),
    ],
)
def test_an_edge_preset_with_a_search_that_blocks_cannot_refine_is_refused(
    tmp_path, search, reason
):
    path = tmp_path / "mine.toml"
    path.write_text(f"model = 'edge'\n[search]\n{search}\n")
    with pytest.raises(CheckpointError, match=f"preset mine: {reason}") as raised:
        load_preset(str(path))
    assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="preset edge: search: "):
        dataclasses.replace(EdgePreset(), search=SearchOptions(measure="l2"))


def test_presets_that_have_options_of_the_search_among_the_quirks_are_understood():
    stored = {
        "search": {"patch": [20, 24], "measure": "pearson", "prior": True},
        "quirks": {"relu_on_logits": True, "stretched_patches": True, "off_centre_prior": False},
    }
    preset = preset_from_dict(stored)
    assert preset.search == SearchOptions(stretched=True)
    assert preset.quirks == Quirks(relu_on_logits=True)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"use one of .*paper"):
        load_preset("papers")
    with pytest.raises(CheckpointError, match="there is no preset file"):
        load_preset("papers.toml")


def test_all_defaults_are_the_papers():
    preset = Preset()
    sizes = preset.autoencoder
    assert (sizes.features, sizes.blocks, sizes.channels, sizes.centers) == (128, 5, 32, 6)
    assert preset.search.patch == (20, 24)
    assert preset.fusion.dilations == (1, 2, 4, 8, 16, 32, 64, 128, 1)
    assert (preset.loss.beta, preset.loss.si_weight) == (500, 0.7)
