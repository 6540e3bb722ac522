"""Training for real, on small pictures and a small model: phases, resuming, refusals."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.run_log import logged

from dsin.runtime.errors import CheckpointError
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.checkpoint import load_checkpoint, save_checkpoint
from dsin.training.paper import train as training
from dsin.training.paper.model import Dsin, inference_mode_of
from dsin.training.paper.train import train
from dsin.training.presets import LossConfig, PhaseConfig, Preset, Quirks

pytestmark = [
    # Lightning's own use of its dependencies.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


@pytest.fixture(autouse=True)
def _small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VALIDATION_CROP", (80, 96))


def phase(name: str, steps: int, **changes: object) -> PhaseConfig:
    plain = PhaseConfig(
        name, steps=steps, crop=(40, 48), learning_rate=1e-3, validate_every_steps=2,
        batch=1, checkpoint_every_minutes=60.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def with_phases(preset: Preset, *phases: PhaseConfig, **changes: object) -> Preset:
    return dataclasses.replace(preset, phases=phases, **changes)  # type: ignore[arg-type]


def test_two_phases(tiny_preset, small_pairs, tmp_path):
    """The published order: the autoencoder alone, then the fusion on top of it."""
    preset = with_phases(
        tiny_preset,
        phase("autoencoder", 4, ae_only=True),
        phase("side_information", 2, freeze_autoencoder=True),
    )
    final = train(preset, small_pairs, small_pairs[:1], tmp_path, workers=0)
    assert final == tmp_path / "side_information" / "final.pt"
    for name in ("autoencoder", "side_information"):
        files = {p.name for p in (tmp_path / name).iterdir()}
        assert {"best.pt", "final.pt", "curves.png", "done.json"} <= files
        assert not [f for f in files if f.endswith(".partial")]

    first, notes = load_checkpoint(tmp_path / "autoencoder" / "final.pt")
    second, _ = load_checkpoint(final)
    assert notes == {"phase": "autoencoder", "step": 4, "pairs": 4}
    assert first.preset == second.preset == preset
    for part in ("encoder", "decoder", "context", "quantiser"):
        before, after = (getattr(m, part).state_dict() for m in (first, second))
        assert all(torch.equal(before[k], after[k]) for k in before), part
    assert not torch.equal(first.fusion.last.weight, second.fusion.last.weight)

    written = final.stat().st_mtime_ns
    assert train(preset, small_pairs, small_pairs[:1], tmp_path, resume=True, workers=0) == final
    assert final.stat().st_mtime_ns == written


def test_loss_falls(tiny_preset, small_pairs, tmp_path):
    loss = LossConfig(beta=0.0, regularise_autoencoder=0, regularise_centers=0)
    run = phase("autoencoder", 20, ae_only=True, learning_rate=3e-3, validate_every_steps=20)
    preset = with_phases(tiny_preset, run, loss=loss)
    start = Dsin(preset)
    save_checkpoint(tmp_path / "start.pt", start)
    final = train(
        preset, small_pairs, small_pairs[:1], tmp_path, start_from=tmp_path / "start.pt", workers=0
    )

    def distance(model: Dsin) -> float:
        data = training.CentredPairs(small_pairs, (80, 96))
        x = torch.stack([x for x, _ in data])
        with torch.no_grad():
            return float((model.train().code(x).x_dec - x).abs().mean())

    assert distance(load_checkpoint(final)[0]) < 0.9 * distance(start)


def test_best_is_the_lowest_validation_loss(tiny_preset, small_pairs, tmp_path):
    preset = with_phases(tiny_preset, phase("autoencoder", 8, ae_only=True))
    train(preset, small_pairs, small_pairs[:1], tmp_path, workers=0)
    losses = logged(tmp_path / "autoencoder", "val_loss")
    assert len(losses) == 4
    _, notes = load_checkpoint(tmp_path / "autoencoder" / "best.pt")
    assert notes["validation"]["val_loss"] == pytest.approx(min(v for _, v in losses))


def test_an_unfinished_phase_goes_on(tiny_preset, small_pairs, tmp_path, monkeypatch):
    """Stopped after three steps, as by Ctrl-C: nothing is lost, and the logs of both parts stay."""
    preset = with_phases(tiny_preset, phase("autoencoder", 6, ae_only=True))
    whole_step = training.Phase.training_step

    def stop_at_three(self, batch, number):
        if self.global_step == 3:
            raise KeyboardInterrupt
        return whole_step(self, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(training.Phase, "training_step", stop_at_three)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            train(preset, small_pairs, small_pairs[:1], tmp_path, workers=0)
        signal.signal(signal.SIGINT, before)
    folder = tmp_path / "autoencoder"
    assert torch.load(folder / "last.ckpt", weights_only=False)["global_step"] == 3
    assert not (folder / "final.pt").exists()
    early = logged(folder, "val_loss")

    with pytest.raises(CheckpointError, match="continue with --resume"):
        train(preset, small_pairs, small_pairs[:1], tmp_path, workers=0)
    steps = []

    def note_step(self, batch, number):
        steps.append(self.global_step)
        return whole_step(self, batch, number)

    monkeypatch.setattr(training.Phase, "training_step", note_step)
    final = train(preset, small_pairs, small_pairs[:1], tmp_path, resume=True, workers=0)
    assert steps == [3, 4, 5]
    assert load_checkpoint(final)[1]["step"] == 6
    assert set(early) < set(logged(folder, "val_loss"))
    assert (folder / "curves.png").stat().st_size > 1000


KILLED_RUN = """
import sys
from pathlib import Path
from dsin.training.paper import train as training
from dsin.runtime.evaluation.pairs import Pair
from dsin.training.presets import *
training.VALIDATION_CROP = (80, 96)
run = PhaseConfig(
    "autoencoder", ae_only=True, steps=100_000, crop=(40, 48), checkpoint_every_minutes=0.0
)
preset = Preset("tiny", AutoencoderConfig(features=16, blocks=1), phases=(run,))
pairs = [Pair(*map(Path, sys.argv[2:]))]
training.train(preset, pairs, pairs, Path(sys.argv[1]), workers=0)
"""


@pytest.mark.parametrize(
    "kind", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_killed_run_leaves_a_whole_checkpoint(small_pairs, tmp_path, kind):
    pair = small_pairs[0]
    last = tmp_path / "autoencoder" / "last.ckpt"
    with (tmp_path / "output").open("wb") as output:
        command = [sys.executable, "-c", KILLED_RUN, str(tmp_path), str(pair.x), str(pair.y)]
        run = subprocess.Popen(command, stdout=output, stderr=output, env=dict(os.environ))
        try:
            deadline = time.monotonic() + 120
            while not last.exists() and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.3)
            run.send_signal(kind)
            run.wait(60)
        finally:
            run.kill()
            run.wait()
    assert last.exists(), (tmp_path / "output").read_text()[-2000:]
    state = torch.load(last, weights_only=False)
    assert state["global_step"] >= 1
    assert not (tmp_path / "autoencoder" / "done.json").exists()


@pytest.mark.parametrize(
    "search",
    [SearchOptions(), SearchOptions(prior=False), SearchOptions(measure="l2")],
    ids=["pearson", "no-prior", "l2"],
)
def test_all_of_it_together_learns_with_every_search(tiny_preset, small_pairs, tmp_path, search):
    preset = with_phases(tiny_preset, phase("all", 1, validate_every_steps=1), search=search)
    final = train(preset, small_pairs, small_pairs[:1], tmp_path, workers=0)
    start, trained = Dsin(preset), load_checkpoint(final)[0]
    for part in ("encoder.h1.conv", "decoder.h13.conv", "context.conv0", "fusion.last"):
        assert not torch.equal(
            start.get_submodule(part).weight, trained.get_submodule(part).weight
        ), part
    assert len(logged(tmp_path / "all", "val_psnr")) == 1


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision(tiny_preset, small_pairs, tmp_path, precision):
    run = phase("autoencoder", 2, ae_only=True, precision=precision)
    final = train(with_phases(tiny_preset, run), small_pairs, small_pairs[:1], tmp_path, workers=0)
    weights = load_checkpoint(final)[0].state_dict()
    assert all(w.isfinite().all() for w in weights.values())


@pytest.mark.parametrize(
    ("run", "rates"),
    [
        (phase("p", 100, decay_every_epochs=5.0), {0: 1.0, 9: 1.0, 10: 0.1, 20: 0.01}),
        (phase("p", 100, decay="cosine"), {0: 1.0, 50: 0.5, 100: 0.0}),
    ],
    ids=["steps", "cosine"],
)
def test_learning_rate(tiny_preset, run, rates):
    """Two pairs are two steps an epoch."""
    pairs = [Pair(Path("x"), Path("y"))] * 2
    module = training.Phase(Dsin(tiny_preset), run, pairs, pairs, 0)
    for step, factor in rates.items():
        assert module._decay(step) == pytest.approx(factor, abs=1e-9), step


def test_search_finds_a_shifted_view(tiny_preset):
    """With y as its own reconstruction, patches of a view 6 pixels apart are found exactly."""
    rng = np.random.default_rng(0)
    scene = torch.from_numpy(rng.uniform(0, 255, (1, 3, 80, 102))).float()
    x, y = scene[..., 6:], scene[..., :-6]
    for search in (SearchOptions(), SearchOptions(measure="l2")):
        preset = dataclasses.replace(tiny_preset, search=search)
        y_syn, matches = Dsin(preset).finder(x, y, y)
        assert matches.col[0, :, :3].tolist() == [[6, 30, 54]] * 4
        assert matches.row[0, :, :3].tolist() == [[20 * i] * 3 for i in range(4)]
        torch.testing.assert_close(y_syn[..., :72], x[..., :72], rtol=0, atol=0)


def test_inference_mode_is_left_as_it_was_found(tiny_preset):
    model = Dsin(tiny_preset)
    model.encoder.train()
    model.decoder.eval()
    with inference_mode_of(model.encoder, model.decoder):
        assert not model.encoder.to_bn.norm.training
    assert model.encoder.training
    assert not model.decoder.training


def test_a_preset_without_phases_is_refused(tiny_preset, small_pairs, tmp_path):
    with pytest.raises(CheckpointError, match="no phases"):
        train(tiny_preset, small_pairs, small_pairs, tmp_path)


def test_a_foreign_file_is_no_checkpoint(tmp_path, tiny_checkpoint):
    cases = {
        "text.pt": b"not a checkpoint",
        "empty.pt": b"",
        "cut.pt": tiny_checkpoint.read_bytes()[:10_000],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            load_checkpoint(tmp_path / name)
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="is not a dsin checkpoint of format 1"):
        load_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_checkpoint_of_another_preset_is_refused(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="fit preset paper: Missing key") as raised:
        load_checkpoint(tiny_checkpoint, preset=Preset())
    assert "\n" not in str(raised.value)


def test_a_checkpoint_carries_preset_and_notes(tiny_preset, tmp_path):
    preset = dataclasses.replace(tiny_preset, quirks=Quirks(relu_on_logits=True))
    notes = {"data": ["a", "b"], "psnr": 27.5}
    save_checkpoint(tmp_path / "deep" / "m.pt", Dsin(preset), notes=notes)
    model, read = load_checkpoint(tmp_path / "deep" / "m.pt")
    assert (model.preset, read) == (preset, notes)
    assert not model.training
    assert json.dumps(read)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.pt"]
