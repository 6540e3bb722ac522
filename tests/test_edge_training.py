"""Training the `edge` model for real, on small pictures: codec, fusion, both, and going on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, textured_pair
from test_training import logged

from dsin.runtime.errors import CheckpointError, FrameError
from dsin.training import edge_train
from dsin.training.checkpoint import load_edge_checkpoint, save_checkpoint
from dsin.training.data import Pair, list_photos
from dsin.training.edge_data import EdgeBatches
from dsin.training.edge_model import EdgeDsin
from dsin.training.edge_rates import multipliers, with_preset
from dsin.training.edge_side import side_input
from dsin.training.losses import ms_ssim, ms_ssim_of_each
from dsin.training.presets import EdgePhase, EdgePreset, load_preset, preset_names
from dsin.training.side_alteration import altered
from dsin.training.train import train

pytestmark = [
    # Lightning's own use of its dependencies.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_train, "VALIDATION_CROP", (80, 96))
    monkeypatch.setattr(edge_train, "WARM_UP", 1)


def phase(name: str, **changes: object) -> EdgePhase:
    plain = EdgePhase(
        name, steps=2, batch=2, crop=(64, 128), photo_crop=(64, 64), learning_rate=1e-3,
        average=0.5, validate_every_steps=2, checkpoint_every_minutes=60.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def preset(*phases: EdgePhase) -> EdgePreset:
    return EdgePreset(name="small", codec=SMALL, phases=phases)


JOINT = {"photo_share": 0.5, "side_weight": 0.8}


def test_three_phases(small_pairs: list[Pair], tmp_path: Path) -> None:
    """The codec on pictures, the fusion on top of it, then both together."""
    phases = (
        phase("codec"),
        phase("fusion", photo_share=0.0, side_weight=1.0, freeze_codec=True),
        phase("joint", **JOINT),
    )
    final = train(preset(*phases), small_pairs, small_pairs[:1], tmp_path, workers=0)
    assert final == tmp_path / "joint" / "final.pt"
    models = {}
    for name in ("codec", "fusion", "joint"):
        files = {p.name for p in (tmp_path / name).iterdir()}
        assert {"best.pt", "final.pt", "curves.png", "done.json"} <= files
        assert len(logged(tmp_path / name, "val_loss")) == 1
        models[name], notes = load_edge_checkpoint(tmp_path / name / "final.pt")
        before = notes.pop("started_from", {"phase": None})
        assert before["phase"] == {"codec": None, "fusion": "codec", "joint": "fusion"}[name]
        assert notes == {"phase": name, "step": 2, "pairs": 4, "photographs": 0}

    def same(first: str, second: str, part: str) -> bool:
        a, b = (models[n].get_submodule(part).state_dict() for n in (first, second))
        return all(torch.equal(a[key], b[key]) for key in a)

    assert same("codec", "fusion", "encoder")
    assert same("codec", "fusion", "entropy")
    assert not same("codec", "fusion", "fusion")
    for part in ("encoder", "entropy", "decoder", "fusion"):
        assert not same("fusion", "joint", part), part
    assert not logged(tmp_path / "codec", "val_psnr_1")
    assert logged(tmp_path / "joint", "val_psnr_1")
    written = final.stat().st_mtime_ns
    train(preset(*phases), small_pairs, small_pairs[:1], tmp_path, resume=True, workers=0)
    assert final.stat().st_mtime_ns == written


def test_loss_falls(small_pairs: list[Pair], tmp_path: Path) -> None:
    run = phase("codec", steps=30, validate_every_steps=10, learning_rate=3e-3)
    train(preset(run), small_pairs, small_pairs[:1], tmp_path, workers=0)
    (_, early), _, (_, late) = logged(tmp_path / "codec", "val_loss")
    assert late < 0.9 * early


@pytest.mark.parametrize(("average", "moved"), [(1.0, False), (0.0, True)])
def test_what_is_kept_is_the_average(
    small_pairs: list[Pair], tmp_path: Path, average: float, moved: bool
) -> None:
    """It starts where the first step ends: with a decay of 1 it stays there."""
    torch.manual_seed(0)
    start = EdgeDsin(preset())
    save_checkpoint(tmp_path / "start.pt", start)
    run = phase("codec", steps=6, average=average, validate_every_steps=6)
    train(
        preset(run), small_pairs, small_pairs[:1], tmp_path / "run",
        start_from=tmp_path / "start.pt", workers=0,
    )  # fmt: skip
    one_step = 1.1 * run.learning_rate
    for name in ("best.pt", "final.pt"):
        kept, _ = load_edge_checkpoint(tmp_path / "run" / "codec" / name)
        before = start.encoder.stem.weight
        farthest = float((kept.encoder.stem.weight - before).detach().abs().max())
        assert (farthest > one_step) == moved, name


def test_an_unfinished_phase_goes_on(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = preset(phase("joint", steps=4, **JOINT))
    whole_step = edge_train.EdgePhaseModule.training_step
    steps: list[int] = []

    def step(self: edge_train.EdgePhaseModule, batch: object, number: int) -> torch.Tensor:
        if self.global_step == 2 and not steps:
            steps.append(-1)
            raise KeyboardInterrupt
        if steps:
            steps.append(self.global_step)
        return whole_step(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(edge_train.EdgePhaseModule, "training_step", step)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        train(run, small_pairs, small_pairs[:1], tmp_path, workers=0)
    assert not (tmp_path / "joint" / "final.pt").exists()
    with pytest.raises(CheckpointError, match="continue with --resume"):
        train(run, small_pairs, small_pairs[:1], tmp_path, workers=0)
    final = train(run, small_pairs, small_pairs[:1], tmp_path, resume=True, workers=0)
    assert steps == [-1, 2, 3]
    assert load_edge_checkpoint(final)[1]["step"] == 4


def test_structural_similarity_and_mixed_precision(tmp_path: Path) -> None:
    import cv2

    pairs = []
    for number in range(2):
        files = tmp_path / f"{number}_x.png", tmp_path / f"{number}_y.png"
        for file, image in zip(files, textured_pair(200, 280, number), strict=True):
            cv2.imwrite(str(file), image)
        pairs.append(Pair(*files))
    run = phase(
        "structure", distortion="ms_ssim", precision="bf16-mixed", crop=(192, 192),
        photo_crop=(192, 192), validate_every_steps=10, **JOINT,
    )  # fmt: skip
    final = train(preset(run), pairs, pairs[:1], tmp_path / "run", workers=0)
    weights = load_edge_checkpoint(final)[0].state_dict()
    assert all(w.isfinite().all() for w in weights.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze_codec": True}, "needs side_weight"),
        ({"photo_share": 0.5}, "side_weight 0"),
        ({"crop": (60, 96)}, "multiples of 64"),
    ],
)
def test_phases_that_make_no_sense_are_refused(
    small_pairs: list[Pair], tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        train(preset(phase("odd", **changes)), small_pairs, small_pairs, tmp_path, workers=0)


def test_weights_of_other_sizes_are_refused(small_pairs: list[Pair], tmp_path: Path) -> None:
    other = EdgePreset(codec=dataclasses.replace(SMALL, fine=24))
    save_checkpoint(tmp_path / "other.pt", EdgeDsin(other))
    with pytest.raises(CheckpointError, match="other sizes"):
        train(
            preset(phase("codec")), small_pairs, small_pairs, tmp_path / "run",
            start_from=tmp_path / "other.pt", workers=0,
        )  # fmt: skip


def test_rate_points_move_along_their_ladder() -> None:
    """Rows stay with their multipliers: on the same ones, in between, and beyond the ends."""
    torch.manual_seed(1)
    model = EdgeDsin(EdgePreset(codec=SMALL, multipliers=(1e-4, 1e-2)))
    rows = torch.tensor([1.0, 2.0, 4.0])[:, None] + torch.zeros(3, SMALL.fine)
    with torch.no_grad():
        model.encoder.fine_gain.factor.copy_(rows)
    same = with_preset(model, model.preset)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True)
    )
    wider = EdgePreset(codec=dataclasses.replace(SMALL, rates=5), multipliers=(1e-5, 1e-1))
    moved = with_preset(model, wider)
    torch.testing.assert_close(
        moved.encoder.fine_gain.factor[:, 0], torch.tensor([0.0, 1, 2, 4, 6])
    )
    assert torch.equal(moved.encoder.stem.weight, model.encoder.stem.weight)
    torch.testing.assert_close(multipliers(wider), torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 1e-1]))


def test_batches_are_of_one_kind_each(small_pairs: list[Pair]) -> None:
    batches = iter(EdgeBatches(phase("joint", **JOINT), small_pairs, [], seed=(0,)))
    kinds = set()
    for _ in range(20):
        x, y = next(batches)
        kinds.add(len(y))
        assert x.shape == ((2, 3, 64, 128) if len(y) else (2, 3, 64, 64))
        assert y.shape == (x.shape if len(y) else (0,))
    assert kinds == {0, 2}


def test_photos_are_listed_and_too_small_ones_named(small_pairs: list[Pair]) -> None:
    folder = small_pairs[0].x.parent
    assert len(list_photos(folder)) == 8
    with pytest.raises(FrameError, match=r"cannot crop 256x256 from .*png"):
        next(iter(EdgeBatches(phase("codec", photo_crop=(256, 256)), small_pairs, [], seed=(0,))))
    with pytest.raises(FrameError, match="has no pictures"):
        list_photos(Path(__file__).parent / "golden")


def test_alterations_keep_size_and_leave_half_alone() -> None:
    y, other = textured_pair(64, 96, 3)
    rng = np.random.default_rng(0)
    seen = [altered(y, other, rng) for _ in range(200)]
    assert all(image.shape == y.shape and image.dtype == np.uint8 for image in seen)
    assert 70 < sum(image is y for image in seen) < 130
    assert any(image is other for image in seen)
    assert len({image.tobytes() for image in seen}) > 50


def test_a_shifted_view_is_found_block_by_block() -> None:
    scene = torch.from_numpy(textured_pair(80, 112, 5)[0].transpose(2, 0, 1)[None].copy()).float()
    x, y = scene[..., 8:104], scene[..., :96]
    side = side_input(x, y, y, EdgePreset().search)
    torch.testing.assert_close(side.y_syn[..., :72], x[..., :72], rtol=0, atol=0)
    torch.testing.assert_close(side.y_syn, side.y_dec_syn, rtol=0, atol=0)
    assert side.cost.shape == (1, 1, 10, 12)
    assert float(side.cost[..., 1:8].max()) == 0


def test_structural_similarity_of_each_picture() -> None:
    x = torch.stack([torch.full((3, 200, 200), 100.0), torch.full((3, 200, 200), 50.0)])
    noisy = x + torch.tensor([0.0, 20.0])[:, None, None, None] * torch.randn(2, 3, 200, 200)
    each = ms_ssim_of_each(x, noisy)
    assert each.shape == (2,)
    assert each[0] == pytest.approx(1)
    assert each[1] < 0.9
    assert float(ms_ssim(x, noisy)) == pytest.approx(float(each.mean()))


def test_shipped_presets_are_whole() -> None:
    edge = [load_preset(name) for name in preset_names() if name.startswith("edge")]
    assert edge
    for loaded in edge:
        assert isinstance(loaded, EdgePreset)
        assert loaded.codec == EdgePreset().codec
        assert loaded.phases
