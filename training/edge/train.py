"""Training the `edge` model: its preset's phases in turn, by one loop on CPUs and GPUs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import write_json
from dsin.runtime.pictures import centre_crop
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.edge.crops import PictureBank
from dsin.training.edge.data import PicturePair, TrainingPictures, decoded
from dsin.training.edge.growth import grown
from dsin.training.edge.model import MULTIPLE, EdgeDsin
from dsin.training.edge.phase import PhaseRun, PhaseSetting
from dsin.training.edge.rates import fits, with_preset
from dsin.training.edge.state import AVERAGE, FINAL, State, has_run, load_state
from dsin.training.interrupts import Interrupts
from dsin.training.presets import EdgePhase, EdgePreset

VALIDATION_CROP = (320, 1216)
"""Height and width, multiples of 8."""


@dataclass(frozen=True)
class EdgeOptions:
    """How a preset is trained.

    `start_from` are the weights of the first phase. With `resume` finished phases are skipped and
    the unfinished one goes on. After `budget_s` seconds everything is saved and training stops.
    `json_path` gets the run's figures, each time that files are written. With `graphs` a GPU
    replays captured steps. `say` gets one line at a time.
    """

    start_from: Path | None = None
    resume: bool = False
    devices: int = 1
    nodes: int = 1
    budget_s: float | None = None
    json_path: Path | None = None
    graphs: bool = True
    say: Callable[[str], None] = print


def train_edge(preset: EdgePreset, data: TrainingPictures, out: Path, options: EdgeOptions) -> Path:
    """Run the preset's phases in turn; returns the last phase's final checkpoint, or, where the
    time was up before, the average of the weights so far.

    `out/<phase>/` gets what `dsin.training.edge.state` says, `log_<n>/metrics.csv`, and at the end
    `curves.png` and `done.json`. An interrupt or SIGTERM saves all and ends as it would otherwise;
    a kill loses what came after the last `checkpoint_every_minutes`.
    Raises CheckpointError for phases that make no sense, for weights that cannot grow into the
    preset's sizes, and where `out` has a run already and `resume` is off; FrameError for pictures
    that cannot be used.
    """
    started = time.monotonic()
    for phase in preset.phases:
        _check(phase)
    folders = {phase.name: out / phase.name for phase in preset.phases}
    for folder in folders.values():
        if has_run(folder) and not options.resume:
            raise CheckpointError(
                f"{folder} has a run already: continue with --resume, or choose another"
            )
    if not data.validation:
        raise CheckpointError("there are no pairs to validate on: name some")
    fabric = Fabric(
        devices=options.devices, num_nodes=options.nodes,
        # Each phase and each kind of batch leaves some part of the model without gradients.
        strategy="auto" if options.devices * options.nodes == 1
        else "ddp_find_unused_parameters_true",
    )  # fmt: skip
    fabric.launch()
    # Sizes are few and stay: the fastest kernels are worth looking for.
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"
    say = options.say if fabric.is_global_zero else _silent
    with _stream_of(fabric.device), Interrupts() as interrupts:
        bank = PictureBank(data, fabric.device, say)
        views = _validation_views(data.validation, fabric.device)
        reports: list[dict[str, Any]] = []
        best = options.start_from

        def must_stop(saving_s: float) -> bool:
            spent = time.monotonic() - started + saving_s
            over = options.budget_s is not None and spent >= options.budget_s
            return over or interrupts.received is not None

        def report(figures: dict[str, Any]) -> None:
            if options.json_path is not None:
                content = {
                    "preset": preset.name, "device": _name_of(fabric.device),
                    "torch": torch.__version__, "phases": [*reports, figures],
                }  # fmt: skip
                write_json(options.json_path, content)

        for phase in preset.phases:
            folder = folders[phase.name]
            if options.resume and (folder / "done.json").is_file():
                best = folder / FINAL
                continue
            folder.mkdir(parents=True, exist_ok=True)
            state = _state(preset, phase, folder, best, say)
            notes = {"pairs": bank.pairs, "photographs": bank.photos, **data.notes}
            run = PhaseRun(
                PhaseSetting(
                    preset, phase, folder, bank, views, notes, fabric, options.graphs, say,
                    must_stop, report,
                ), state,
            )  # fmt: skip
            finished = run.go()
            reports.append(run.figures())
            if interrupts.received is not None:
                say(f"interrupted at step {run.step} of phase {phase.name}: go on with --resume")
                interrupts.leave()
            if not finished:
                say(
                    f"the time is up: stopped at step {run.step} of {phase.steps} of phase "
                    f"{phase.name}, go on with --resume"
                )
                return folder / AVERAGE
            best = folder / FINAL
    assert best is not None
    return best


def _check(phase: EdgePhase) -> None:
    if phase.freeze_codec and (not phase.side_weight or phase.photo_share):
        raise CheckpointError(
            f"phase {phase.name} freezes the codec: it needs side_weight above 0, photo_share 0"
        )
    if phase.side_weight == 0 and phase.photo_share < 1:
        raise CheckpointError(f"phase {phase.name} has pairs but side_weight 0: set photo_share 1")
    if any(side % MULTIPLE for side in (*phase.crop, *phase.photo_crop)):
        raise CheckpointError(f"phase {phase.name}: crops must be multiples of {MULTIPLE} pixels")


def _state(
    preset: EdgePreset, phase: EdgePhase, folder: Path, start_from: Path | None,
    say: Callable[[str], None],
) -> State:  # fmt: skip
    """Where a phase goes on, or begins."""
    if has_run(folder):
        state = load_state(folder, preset)
        lacking = ", from the average and without the optimiser's moments"
        say(
            f"phase {phase.name} goes on at step {state.step}"
            f"{lacking if state.moments is None else ''}"
        )
        return state
    model, notes = _starting_model(preset, start_from)
    weights = model.state_dict()
    return State(0, weights, weights, None, notes)


def _starting_model(preset: EdgePreset, start_from: Path | None) -> tuple[EdgeDsin, dict[str, Any]]:
    """The model to train, and the notes of its weights."""
    if start_from is None:
        torch.manual_seed(preset.seed)
        return EdgeDsin(preset), {}
    model, notes = load_edge_checkpoint(start_from)
    if fits(model, preset):
        return with_preset(model, preset), notes
    return grown(model, preset), notes


def _validation_views(
    pairs: Sequence[PicturePair], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """The middles of pairs, uint8 (1, 3, H, W) on the device."""
    views = [
        torch.from_numpy(centre_crop(image, VALIDATION_CROP).transpose(2, 0, 1)[None].copy())
        for image in decoded([picture for pair in pairs for picture in pair])
    ]
    return [(x.to(device), y.to(device)) for x, y in zip(views[::2], views[1::2], strict=True)]


def _stream_of(device: torch.device) -> Any:
    """On a GPU a stream beside the default one, in which a step can be captured."""
    own = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    return torch.cuda.stream(own)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _silent(line: str) -> None:
    """For all processes but the first."""
