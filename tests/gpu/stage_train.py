"""Training as the product trains, for all the time that is left, and its newest checkpoint home.

    python -m dsin.runtime.commands.cli train PRESET --pack PACK --out RUN --budget-s N --resume
    --json FILE

The checkpoint is copied into the results each time that a new one is there: see
`checkpoint_parts`.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoint_parts import PartsError, split
from rehearsal_pack import rehearsal_pack
from stage import NotCarriedError, Orders, Report, UnfitError, need_gpu, need_torch_on_gpu, run
from visit_child import last_line

SAVING_S = 25.0
"""Of the stage's time, for training to begin, to write when its own time is up, and for the last
copy."""
REHEARSED_S = 4.0
LEAST_GIB = 12.0
_LOOK_EVERY_S = 2.0
CARRIED = "average.pt"
"""The small one among the files of a phase: float16 weights to go on from anywhere."""


def work(orders: Orders, report: Report) -> None:
    if not orders.rehearse:
        need_gpu(LEAST_GIB)
        need_torch_on_gpu()
    folder, figures = orders.work / "run", orders.work / "train.json"
    budget_s = REHEARSED_S if orders.rehearse else orders.limit_s - SAVING_S
    if budget_s < 1:
        raise UnfitError(f"{orders.limit_s:.0f} s are too few to train and save")
    keeper = Keeper(folder, orders.out, report)
    command = training_command(orders, folder, figures, budget_s)
    print(*command)
    status, said = _watched(command, keeper.look, orders.work / "train.log")
    keeper.look()
    if keeper.carried is not None:
        report.check("checkpoint carried home", True, keeper.carried)
    _tell(report, figures)
    if status:
        raise UnfitError(f"training ended with status {status}: {said}")
    report.check("training", True, f"{budget_s:.0f} s")
    if keeper.carried is None:
        raise UnfitError("training left no checkpoint")


def training_command(orders: Orders, folder: Path, figures: Path, budget_s: float) -> list[str]:
    """The product's command."""
    pack, preset = orders.pack, orders.preset
    if orders.rehearse:
        pack, preset = pack or rehearsal_pack(orders), str(Path(__file__).parent / "rehearsal.toml")
    if pack is None:
        raise NotCarriedError("no pack was given to train on: --pack DIR names one")
    command = [
        sys.executable, "-m", "dsin.runtime.commands.cli", "train", preset, "--pack", str(pack),
        "--out", str(folder), "--budget-s", f"{budget_s:.0f}", "--resume", "--json", str(figures),
    ]  # fmt: skip
    if orders.start_from is not None:
        command += ["--start-from", str(orders.start_from)]
    return command


class Keeper:
    """Copies the newest checkpoint of a run into the results, whenever it changed."""

    def __init__(self, run_folder: Path, out: Path, report: Report) -> None:
        self._run, self._out, self._report = run_folder, out, report
        self._seen = 0
        self.carried: str | None = None
        """What lies in the results now, in words."""

    def look(self) -> None:
        found = newest(self._run)
        if found is None or found.stat().st_mtime_ns == self._seen:
            return
        self._seen = found.stat().st_mtime_ns
        where = found.relative_to(self._run)
        try:
            parts = split(found, self._out)
        except (PartsError, OSError) as error:
            self._report.tell("checkpoint", str(error))
            return
        self.carried = f"{where}, {found.stat().st_size / 2**20:.1f} MiB in {len(parts)} parts"
        self._report.facts(checkpoint=where.as_posix())
        print(f"carried {self.carried}")


def newest(run_folder: Path) -> Path | None:
    """The newest small checkpoint of a run; of any kind where there is no small one."""
    for pattern in (f"**/{CARRIED}", "**/*.pt"):
        found = [(path.stat().st_mtime_ns, path) for path in run_folder.glob(pattern)]
        if found:
            return max(found)[1]
    return None


def _watched(command: list[str], look: Callable[[], None], log: Path) -> tuple[int, str]:
    """Run, looking now and then; the exit status, and the last line that it said. It is in the
    stage's own group, so that the stage's limit ends both."""
    printed = 0
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        status = None
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(_LOOK_EVERY_S)
            look()
            said = log.read_bytes()
            print(said[printed:].decode(errors="replace"), end="")
            printed = len(said)
    return status, last_line(log, 0)


def _tell(report: Report, figures: Path) -> None:
    try:
        found = json.loads(figures.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report.tell("figures", "training wrote none")
        return
    report.facts(training=found)
    for number, phase in enumerate(found.get("phases", [])):
        report.tell(f"phase {phase.get('phase', number)}", phase_in_words(phase))


def phase_in_words(phase: dict[str, Any]) -> str:
    """The figures of one phase that the table shows."""
    shown = {
        "steps": "{:.0f} steps", "steps_per_s": "{:.1f} steps a second",
        "step_ms_p50": "{:.2f} ms a step", "share_outside_step": "{:.1%} outside of steps",
        "gpu_utilisation": "GPU at {:.0f} %", "gpu_memory_mib": "{:.0f} MiB",
    }  # fmt: skip
    said = [text.format(phase[name]) for name, text in shown.items() if phase.get(name) is not None]
    for name, word in (("history", "loss"), ("validation", "val_loss")):
        rows = [row[word] for row in phase.get(name, []) if word in row]
        if rows:
            said.append(f"{word} {rows[0]:.4f} to {rows[-1]:.4f}")
    return ", ".join(said) or "no figures"


if __name__ == "__main__":
    run(work)
