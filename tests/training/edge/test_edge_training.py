"""Training the `edge` model for real, on small pictures: codec, fusion, both, and going on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL, textured_pair
from support.run_log import logged

from dsin.runtime.errors import CheckpointError
from dsin.runtime.evaluation.pairs import Pair
from dsin.training.checkpoint import load_edge_checkpoint, save_checkpoint
from dsin.training.edge import phase as edge_phase
from dsin.training.edge import step as edge_step
from dsin.training.edge import train as edge_train
from dsin.training.edge.data import pictures_of_files
from dsin.training.edge.model import EdgeDsin
from dsin.training.edge.objective import EdgeObjective
from dsin.training.edge.phase import PhaseRun
from dsin.training.edge.rates import fits, multipliers, with_preset
from dsin.training.edge.side import side_input
from dsin.training.edge.state import LAST, State, load_state, save_state
from dsin.training.losses import ms_ssim, ms_ssim_of_each
from dsin.training.presets import EdgePhase, EdgePreset, load_preset, preset_names
from dsin.training.run_report import StepClock

pytestmark = [
    # Lightning's own use of its dependencies.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_train, "VALIDATION_CROP", (80, 96))
    monkeypatch.setattr(edge_step, "WARM_UP", 1)


def phase(name: str, **changes: object) -> EdgePhase:
    plain = EdgePhase(
        name, steps=2, batch=2, crop=(64, 128), photo_crop=(64, 64), learning_rate=1e-3,
        average=0.5, validate_every_steps=2, checkpoint_every_minutes=60.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def preset(*phases: EdgePhase) -> EdgePreset:
    return EdgePreset(name="small", codec=SMALL, phases=phases)


def train(
    preset: EdgePreset, pairs: list[Pair], validation: list[Pair], out: Path, **options: object
) -> Path:
    data = pictures_of_files(pairs, [], validation)
    return edge_train.train_edge(preset, data, out, edge_train.EdgeOptions(**options))  # type: ignore[arg-type]


JOINT = {"photo_share": 0.5, "side_weight": 0.8}


def test_three_phases(small_pairs: list[Pair], tmp_path: Path) -> None:
    """The codec on pictures, the fusion on top of it, then both together."""
    phases = (
        phase("codec"),
        phase("fusion", photo_share=0.0, side_weight=1.0, freeze_codec=True),
        phase("joint", **JOINT),
    )
    final = train(preset(*phases), small_pairs, small_pairs[:1], tmp_path)
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
    train(preset(*phases), small_pairs, small_pairs[:1], tmp_path, resume=True)
    assert final.stat().st_mtime_ns == written


def test_loss_falls(small_pairs: list[Pair], tmp_path: Path) -> None:
    run = phase("codec", steps=30, validate_every_steps=10, learning_rate=3e-3)
    train(preset(run), small_pairs, small_pairs[:1], tmp_path)
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
        start_from=tmp_path / "start.pt",
    )  # fmt: skip
    one_step = 1.1 * run.learning_rate
    for name in ("best.pt", "final.pt"):
        kept, _ = load_edge_checkpoint(tmp_path / "run" / "codec" / name)
        before = start.encoder.stem.weight
        farthest = float((kept.encoder.stem.weight - before).detach().abs().max())
        assert (farthest > one_step) == moved, name


def stops_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next run stop there, as if its time were up."""
    asked = []

    def must_stop(self: PhaseRun) -> bool:
        asked.append(self.step)
        return self.step == step

    monkeypatch.setattr(PhaseRun, "_must_stop", must_stop)


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The x of every training step from now on."""
    seen: list[torch.Tensor] = []
    forward = EdgeObjective.forward

    def note(self: EdgeObjective, x: torch.Tensor, y: torch.Tensor | None) -> object:
        seen.append(x.clone())
        return forward(self, x, y)

    monkeypatch.setattr(EdgeObjective, "forward", note)
    return seen


def test_a_stopped_phase_goes_on_with_other_crops(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = preset(phase("codec", steps=4, validate_every_steps=1))
    seen = seen_by(monkeypatch)
    said: list[str] = []
    with monkeypatch.context() as patched:
        stops_before(2, patched)
        kept = train(run, small_pairs, small_pairs[:1], tmp_path, say=said.append)
    assert kept == tmp_path / "codec" / "average.pt"
    assert said[-1] == (
        "the time is up: stopped at step 2 of 4 of phase codec, go on with --resume"
    )
    assert not (tmp_path / "codec" / "final.pt").exists()
    with pytest.raises(CheckpointError, match="continue with --resume"):
        train(run, small_pairs, small_pairs[:1], tmp_path)
    early = logged(tmp_path / "codec", "val_loss")

    final = train(run, small_pairs, small_pairs[:1], tmp_path, resume=True, say=said.append)
    assert "phase codec goes on at step 2" in said
    assert load_edge_checkpoint(final)[1]["step"] == 4
    assert [step for step, _ in logged(tmp_path / "codec", "val_loss")] == [1, 2, 3, 4]
    assert set(early) < set(logged(tmp_path / "codec", "val_loss"))
    assert len(seen) == 4
    assert not any(torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])


def test_equal_runs_see_equal_crops(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by(monkeypatch)
    for name in "ab":
        train(preset(phase("codec")), small_pairs, small_pairs[:1], tmp_path / name)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    a, b = (load_edge_checkpoint(tmp_path / n / "codec" / "final.pt")[0] for n in "ab")
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_run_goes_on_from_its_average_alone(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine, to which only the small file was carried."""
    run = preset(phase("codec", steps=4))
    with monkeypatch.context() as patched:
        stops_before(3, patched)
        kept = train(run, small_pairs, small_pairs[:1], tmp_path / "there")
    weights = torch.load(kept, weights_only=True)["model"]
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert load_edge_checkpoint(kept)[1] == {
        "phase": "codec", "step": 3, "pairs": 4, "photographs": 0,
    }  # fmt: skip
    (tmp_path / "here" / "codec").mkdir(parents=True)
    kept.rename(tmp_path / "here" / "codec" / "average.pt")
    said: list[str] = []
    seen = seen_by(monkeypatch)
    final = train(
        run, small_pairs, small_pairs[:1], tmp_path / "here", resume=True, say=said.append
    )
    assert said[0] == (
        "phase codec goes on at step 3, from the average and without the optimiser's moments"
    )
    assert len(seen) == 1
    assert load_edge_checkpoint(final)[1]["step"] == 4


def test_a_resumed_run_has_lost_nothing(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, average and the optimiser's moments are those at the stop."""
    run = preset(phase("codec", steps=4))
    folder = tmp_path / "codec"
    with monkeypatch.context() as patched:
        stops_before(2, patched)
        train(run, small_pairs, small_pairs[:1], tmp_path)
    before = torch.load(folder / "last.ckpt", weights_only=True)
    assert before["step"] == 2
    with monkeypatch.context() as patched:
        stops_before(2, patched)
        train(run, small_pairs, small_pairs[:1], tmp_path, resume=True)
    after = torch.load(folder / "last.ckpt", weights_only=True)
    for part in ("model", "average"):
        assert all(torch.equal(after[part][k], before[part][k]) for k in before[part]), part
    assert before["moments"].keys() == after["moments"].keys()
    for number, moments in before["moments"].items():
        for name, value in moments.items():
            assert torch.equal(after["moments"][number][name], value), name


def test_best_is_the_lowest_validation_loss_of_all_runs(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5, 0.7])
    monkeypatch.setattr(
        EdgeObjective, "validate", lambda self, x, y: {"val_loss": torch.tensor(next(losses))}
    )
    run = preset(phase("codec", steps=6, validate_every_steps=1))
    with monkeypatch.context() as patched:
        stops_before(3, patched)
        train(run, small_pairs, small_pairs[:1], tmp_path)

    def best() -> tuple[int, float]:
        notes = load_edge_checkpoint(tmp_path / "codec" / "best.pt")[1]
        return notes["step"], notes["validation"]["val_loss"]

    assert best() == (2, 1.0)
    with monkeypatch.context() as patched:
        stops_before(4, patched)
        train(run, small_pairs, small_pairs[:1], tmp_path, resume=True)
    assert best() == (2, 1.0)
    train(run, small_pairs, small_pairs[:1], tmp_path, resume=True)
    assert best() == (5, 0.5)


def test_time_is_shared_out(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 100 s here and a validation 400: of 1000 s, no second one is begun."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(edge_train, "time", clock)
    monkeypatch.setattr(edge_phase, "time", clock)
    for name, seconds in (("forward", 100.0), ("validate", 400.0)):
        work = getattr(EdgeObjective, name)

        def slowly(self: object, *views: object, work: Any = work, s: float = seconds) -> object:
            now[0] += s
            return work(self, *views)

        monkeypatch.setattr(EdgeObjective, name, slowly)
    said: list[str] = []
    run = preset(phase("codec", steps=20, validate_every_steps=2))
    train(run, small_pairs, small_pairs[:1], tmp_path, budget_s=1000.0, say=said.append)
    assert "codec 4/20  not validated: there is no time left for it" in said
    assert [step for step, _ in logged(tmp_path / "codec", "val_loss")] == [2]
    assert said[-1] == "the time is up: stopped at step 6 of 20 of phase codec, go on with --resume"


def test_no_step_falls_into_a_pause(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the speed that the report tells would be too high."""
    steps = []

    class Watched(StepClock):
        def begin(self) -> None:
            steps.append(self._pause_s())
            super().begin()

    monkeypatch.setattr(edge_phase, "StepClock", Watched)
    run = preset(phase("codec", steps=3, validate_every_steps=1, checkpoint_every_minutes=0.0))
    train(run, small_pairs, small_pairs[:1], tmp_path)
    assert steps == [0, 0, 0]


def test_photographs_and_pairs_take_turns_at_random(
    small_pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []

    def note(self: EdgeObjective, x: torch.Tensor, y: torch.Tensor | None) -> object:
        kinds.append("photos" if y is None else "pairs")
        nothing = 0 * torch.stack([weight.sum() for weight in self.parameters()]).sum()
        return nothing, torch.full((3 if y is None else 4,), 5.0)

    monkeypatch.setattr(EdgeObjective, "forward", note)
    monkeypatch.setattr(EdgeObjective, "validate", lambda *_: {"val_loss": torch.zeros(())})
    run = phase("joint", steps=16, validate_every_steps=100, **JOINT)
    train(preset(run), small_pairs, small_pairs[:1], tmp_path)
    assert 4 <= kinds.count("pairs") <= 12
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)
    for figure in ("loss", "psnr"):
        assert logged(tmp_path / "joint", figure) == [(16, 5)], "the mean of equal figures"


def test_a_loss_that_is_no_number_ends_the_run_and_spares_what_was_saved(
    small_pairs: list[Pair], tmp_path: Path
) -> None:
    run = phase("codec", steps=30, learning_rate=1e6)
    with pytest.raises(CheckpointError, match="phase codec diverged by step 2: its loss is"):
        train(preset(run), small_pairs, small_pairs[:1], tmp_path)
    assert not (tmp_path / "codec" / "last.ckpt").exists()


def test_the_report_tells_speed_and_losses(small_pairs: list[Pair], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    phases = phase("codec"), phase("joint", steps=3, validate_every_steps=3, **JOINT)
    train(preset(*phases), small_pairs, small_pairs[:1], tmp_path / "run", json_path=report)
    told = json.loads(report.read_text())
    assert (told["preset"], told["device"]) == ("small", "cpu")
    codec, joint = told["phases"]
    assert (codec["phase"], codec["step"], codec["steps"], codec["of_steps"]) == ("codec", 2, 2, 2)
    assert (joint["phase"], joint["step"], joint["mode"]) == ("joint", 3, "eager")
    assert joint["steps_per_s"] == pytest.approx(3 / joint["training_s"])
    assert 0 <= joint["share_outside_step"] < 1
    assert joint["step_ms_p50"] > 0
    assert joint["gpu_utilisation"] is None
    assert joint["gpu_memory_mib"] is None
    assert [row["step"] for row in codec["validation"]] == [2]
    assert codec["history"][-1].keys() == {"step", "loss", "bpp", "psnr_no_side"}


STOPPED_RUN = """
import sys
from pathlib import Path
from conftest import SMALL
from dsin.training.edge import train as edge_train
from dsin.runtime.evaluation.pairs import Pair
from dsin.training.edge.data import pictures_of_files
from dsin.training.presets import EdgePhase, EdgePreset
edge_train.VALIDATION_CROP = (80, 96)
run = EdgePhase("codec", steps=100_000, batch=1, photo_crop=(64, 64), checkpoint_every_minutes=0.0)
pairs = [Pair(*map(Path, sys.argv[2:]))]
options = edge_train.EdgeOptions()
data = pictures_of_files(pairs, [], pairs)
edge_train.train_edge(EdgePreset(codec=SMALL, phases=(run,)), data, Path(sys.argv[1]), options)
"""


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGINT, -2),
    ],
)
def test_a_killed_run_leaves_whole_files(
    small_pairs: list[Pair], tmp_path: Path, kind: signal.Signals, status: int
) -> None:
    pair, folder = small_pairs[0], tmp_path / "run" / "codec"
    log = tmp_path / "output"
    with log.open("wb") as output:
        command = [
            sys.executable, "-c", STOPPED_RUN, str(tmp_path / "run"), str(pair.x), str(pair.y)
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            deadline = time.monotonic() + 120
            while not (folder / "average.pt").exists() and run.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            run.send_signal(kind)
            assert run.wait(60) == status, log.read_text()[-2000:]
        finally:
            run.kill()
            run.wait()
    _, notes = load_edge_checkpoint(folder / "average.pt")
    assert notes["step"] >= 1
    step = torch.load(folder / "last.ckpt", weights_only=True)["step"]
    if kind != signal.SIGKILL:
        assert notes["step"] == step
        assert f"interrupted at step {step} of phase codec: go on with --resume" in log.read_text()
    assert not (folder / "done.json").exists()
    assert {p.name for p in folder.iterdir()} - {"last.ckpt.partial", "average.pt.partial"} == {
        "last.ckpt", "average.pt", "log_0",
    }  # fmt: skip


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
    final = train(preset(run), pairs, pairs[:1], tmp_path / "run")
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
        train(preset(phase("odd", **changes)), small_pairs, small_pairs, tmp_path)


def test_there_must_be_pairs_to_validate_on(small_pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there are no pairs to validate on: name some"):
        train(preset(phase("codec")), small_pairs, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_that_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    def refusal(wanted: EdgePreset) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_state(tmp_path, wanted)
        return str(caught.value)

    small, last = preset(), tmp_path / LAST
    last.write_bytes(b"not a state")
    assert refusal(small) == f"{last} is damaged: UnpicklingError"
    torch.save(Path, last)  # runs code of whoever wrote it
    assert refusal(small) == f"{last} is damaged: UnpicklingError"
    torch.save({"dsin_checkpoint": 1}, last)
    assert refusal(small) == f"{last} is not the state of a run of edge: choose another folder"
    weights = EdgeDsin(small).state_dict()
    save_state(tmp_path, State(7, weights, weights, None, {"pairs": 3}), small)
    found = load_state(tmp_path, small)
    assert (found.step, found.moments, found.notes) == (7, None, {"pairs": 3})
    wider = EdgePreset(name="wide", codec=dataclasses.replace(SMALL, fine=24))
    assert refusal(wider) == f"{last} does not have the sizes of preset wide"


def test_weights_of_other_sizes_are_refused(small_pairs: list[Pair], tmp_path: Path) -> None:
    other = EdgePreset(codec=dataclasses.replace(SMALL, fine=24))
    save_checkpoint(tmp_path / "other.pt", EdgeDsin(other))
    with pytest.raises(CheckpointError, match="cannot grow into"):
        train(
            preset(phase("codec")), small_pairs, small_pairs, tmp_path / "run",
            start_from=tmp_path / "other.pt",
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


def test_only_a_model_of_the_same_search_and_sizes_can_be_moved() -> None:
    preset = EdgePreset(codec=SMALL)
    flow = dataclasses.replace(preset.search, flow=not preset.search.flow)
    others = {
        "rates": dataclasses.replace(preset, codec=dataclasses.replace(SMALL, rates=5)),
        "latent": dataclasses.replace(preset, codec=dataclasses.replace(SMALL, latent=16)),
        "flow": dataclasses.replace(preset, search=flow),
    }
    model = EdgeDsin(preset)
    assert {name: fits(model, other) for name, other in others.items()} == {
        "rates": True, "latent": False, "flow": False,
    }  # fmt: skip


def test_a_shifted_view_is_found_block_by_block() -> None:
    scene = torch.from_numpy(textured_pair(80, 112, 5)[0].transpose(2, 0, 1)[None].copy()).float()
    x, y = scene[..., 8:104], scene[..., :96]
    side = side_input(x, y, y, EdgePreset().search)
    torch.testing.assert_close(side.first[..., :72], x[..., :72], rtol=0, atol=0)
    torch.testing.assert_close(side.first, side.second, rtol=0, atol=0)
    assert side.doubt.shape == (1, 1, 10, 12)
    assert float(side.doubt[..., 1:8].max()) == 0


def test_structural_similarity_of_each_picture() -> None:
    x = torch.stack([torch.full((3, 200, 200), 100.0), torch.full((3, 200, 200), 50.0)])
    noisy = x + torch.tensor([0.0, 20.0])[:, None, None, None] * torch.randn(2, 3, 200, 200)
    each = ms_ssim_of_each(x, noisy)
    assert each.shape == (2,)
    assert each[0] == pytest.approx(1)
    assert each[1] < 0.9
    assert float(ms_ssim(x, noisy)) == pytest.approx(float(each.mean()))


def test_shipped_presets_are_whole() -> None:
    usual = EdgePreset().codec
    sizes = {
        "edge_second": dataclasses.replace(
            usual, latent=192, encoder_blocks=(3, 4), decoder_blocks=(4, 4), entropy_steps=2,
            out_kernel=1,
        ),
        **dict.fromkeys(
            ("edge_flow", "edge_look_structure", "edge_look_sharp"),
            dataclasses.replace(usual, fusion_blocks=3, fusion_out_kernel=1),
        ),
    }  # fmt: skip
    edge = [load_preset(name) for name in preset_names() if name.startswith("edge")]
    assert set(sizes) < {loaded.name for loaded in edge}
    for loaded in edge:
        assert isinstance(loaded, EdgePreset)
        assert loaded.phases
        assert loaded.codec == sizes.get(loaded.name, usual)
        assert loaded.search.flow == loaded.name.startswith(("edge_flow", "edge_look"))
