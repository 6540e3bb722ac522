"""Random crops on the device: which pixels of which picture, mirrored how, and what is refused."""

from functools import partial

import numpy as np
import pytest
import torch

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.training.edge import crops as edge_crops
from dsin.training.edge.crops import CropDrawer, PictureBank, PictureStore
from dsin.training.edge.data import Picture, PicturePair, TrainingPictures
from dsin.training.presets import EdgePhase
from dsin.training.side_alteration import Alterations, alterations_of

CPU = torch.device("cpu")
NOBODY = print
PHASE = EdgePhase("joint", batch=16, crop=(12, 16), photo_crop=(3, 5), photo_share=0.5)


def ruled(number: int, height: int, width: int) -> Image:
    """A picture whose pixels are (its number, their row, their column)."""
    rows, columns = np.indices((height, width))
    return np.stack([np.full_like(rows, number), rows, columns], 2).astype(np.uint8)


def picture(number: int, height: int, width: int) -> Picture:
    return Picture(f"picture {number}", partial(ruled, number, height, width))


def pictures(pairs: int = 3, photos: int = 2) -> TrainingPictures:
    """Pair n has the pictures 2n and 2n + 1, the right one of which has one row less."""
    return TrainingPictures(
        [PicturePair(picture(2 * n, 20, 40), picture(2 * n + 1, 19, 40)) for n in range(pairs)],
        [picture(100 + n, 5 + n, 7) for n in range(photos)], [],
    )  # fmt: skip


def drawer(phase: EdgePhase = PHASE, data: TrainingPictures | None = None) -> CropDrawer:
    return CropDrawer(phase, PictureBank(data or pictures(), CPU, NOBODY), NOBODY)


def nothing_altered(count: int, device: torch.device) -> Alterations:
    return alterations_of(torch.full((count,), -1), *torch.rand(2, count))


def everything_foreign(count: int, device: torch.device) -> Alterations:
    return alterations_of(torch.full((count,), 5), *torch.rand(2, count))


def test_a_window_is_cut_where_it_should_be() -> None:
    store = PictureStore([ruled(1, 5, 7), ruled(2, 6, 4)], CPU)
    which, top, left = (torch.tensor(v) for v in ([1, 0, 0], [3, 0, 2], [1, 2, 4]))
    cut = store.cut(which, top, left, torch.tensor([False, False, True]), (2, 3))
    assert cut.dtype == torch.float32
    assert cut.is_contiguous(memory_format=torch.channels_last)
    number, rows, columns = cut.unbind(1)
    assert number[:, 0, 0].tolist() == [2, 1, 1]
    assert rows[:, :, 0].tolist() == [[3, 4], [0, 1], [2, 3]]
    assert columns[:, 0].tolist() == [[1, 2, 3], [2, 3, 4], [6, 5, 4]]


def test_mirrored_pairs_have_their_views_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """x is the left view as it is, or the right one mirrored; y is the other, from one window."""
    monkeypatch.setattr(edge_crops, "draw_alterations", nothing_altered)
    torch.manual_seed(0)
    x, y = drawer().pairs()
    assert y is not None
    assert x.shape == y.shape == (16, 3, 12, 16)
    seen = set()
    for mine, theirs in zip(x, y, strict=True):
        number = int(mine[0, 0, 0])
        steps = mine[2, 0].diff().tolist()
        if number % 2 == 0:
            assert steps == [1] * 15
            assert theirs[0].unique().tolist() == [number + 1]
        else:
            assert steps == [-1] * 15
            assert theirs[0].unique().tolist() == [number - 1]
        assert torch.equal(mine[1:], theirs[1:])
        assert float(mine[1].max()) <= 18, "the right view has 19 rows"
        seen.add(number)
    assert seen == {0, 1, 2, 3, 4, 5}


def test_a_foreign_side_image_is_any_right_view_from_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_crops, "draw_alterations", everything_foreign)
    torch.manual_seed(0)
    x, y = drawer().pairs()
    assert y is not None
    assert set(y[:, 0].flatten().tolist()) == {1, 3, 5}
    other_pair = x[:, 0, 0, 0] // 2 != y[:, 0, 0, 0] // 2
    assert 0 < int(other_pair.sum()) < 16
    assert not torch.equal(x[:, 1:], y[:, 1:])
    assert torch.equal(y[:, 2, 0].diff(), torch.ones(16, 15)), "never mirrored"


def test_photographs_are_all_pictures_and_half_are_mirrored() -> None:
    torch.manual_seed(0)
    draw = drawer(EdgePhase("codec", batch=400, photo_crop=(3, 5)))
    x, y = draw.photos()
    assert y is None
    assert x.shape == (400, 3, 3, 5)
    numbers, counts = np.unique(x[:, 0, 0, 0].numpy(), return_counts=True)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 100, 101]
    assert counts.min() > 25
    mirrored = x[:, 2, 0, 0] > x[:, 2, 0, 4]
    assert 150 < int(mirrored.sum()) < 250
    of_first = x[x[:, 0, 0, 0] == 100]
    assert set(of_first[:, 1, 0, 0].tolist()) == {0, 1, 2}
    assert set(of_first[:, 2, 0].min(1).values.tolist()) == {0, 1, 2}


def test_alterations_reach_the_side_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(count: int, device: torch.device) -> Alterations:
        return alterations_of(torch.zeros(count, dtype=torch.long), *torch.zeros(2, count))

    monkeypatch.setattr(edge_crops, "draw_alterations", darker)
    monkeypatch.setattr(edge_crops, "_coins", lambda like: torch.zeros(len(like), dtype=torch.bool))
    x, y = drawer().pairs()
    assert y is not None
    assert set(x[:, 0].flatten().tolist()) <= {0, 2, 4}
    assert torch.equal(y[:, 2], (0.6 * x[:, 2] - 10).round().clamp(0, 255))


def test_pictures_smaller_than_a_crop_are_left_out_and_named() -> None:
    said: list[str] = []
    data = pictures(photos=3)
    phase = EdgePhase("codec", batch=200, photo_crop=(6, 7))
    draw = CropDrawer(phase, PictureBank(data, CPU, said.append), said.append)
    assert said == ["left out 1 of 9: cannot crop 6x7 from picture 100, which is 5x7"]
    assert 100 not in draw.photos().x[:, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"photo_crop": (21, 5)}, "cannot crop 21x5 from picture 0, which is 20x40"),
        ({"crop": (20, 6), "photo_share": 0.0}, "cannot crop 20x6 from picture 0, which is 19x40"),
    ],
)
def test_nothing_to_cut_from_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FrameError, match=words):
        drawer(EdgePhase("p", **changes))  # type: ignore[arg-type]


def test_a_phase_of_pairs_needs_pairs() -> None:
    with pytest.raises(FrameError, match="there are no pictures to cut 12x16 from"):
        drawer(data=pictures(pairs=0))


def unusable() -> Image:
    raise FrameError("deep.png is 5x5 uint16: an 8-bit colour image is needed")


def test_photographs_that_cannot_be_used_are_counted() -> None:
    """At the start, and not when they are drawn."""
    said: list[str] = []
    data = TrainingPictures([], [Picture("deep.png", unusable), picture(7, 9, 9)], [])
    bank = PictureBank(data, CPU, said.append)
    assert bank.photos == 1
    assert said == [
        "left out 1 pictures that cannot be used: "
        "deep.png is 5x5 uint16: an 8-bit colour image is needed"
    ]


def test_a_pair_that_cannot_be_used_is_refused() -> None:
    pair = PicturePair(picture(1, 9, 9), Picture("deep.png", unusable))
    with pytest.raises(FrameError, match=r"deep.png is 5x5"):
        PictureBank(TrainingPictures([pair], [], []), CPU, NOBODY)
