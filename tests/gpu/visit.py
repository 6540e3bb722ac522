"""A quarter of an hour on a GPU: prove what needs one, then train; see `.docs/gpu.md`.

    python tests/gpu/visit.py --budget-s 780 --out DIR --pack PACK
    python tests/gpu/visit.py --rehearse --out DIR              the same without a GPU, tiny

Each stage is a child process with a time limit. What it found is in DIR as soon as it is known, so
that a visit that is cut off loses the stage it was in and no more. The exit status is the number of
stages that failed, at most 125. The package need not be installed.
"""

import argparse
import datetime
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import visit_plan
from stage import Orders
from visit_child import Ended, last_line, run_child, shorten
from visit_layout import CHECKOUT, bundles, environment, lay_out
from visit_plan import Stage, seconds_for
from visit_results import Result, Results, exit_status

LOG_BYTES = 1 << 20
"""What is kept of one stage's output."""
ALL_LOG_BYTES = 4 << 20
"""What is kept of the log of earlier calls."""


class CutOff(BaseException):
    """The visit was asked to end."""


class Visit:
    """One call of the command: its options, its clock, its results."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self._given, self._work = given, work
        self._began = time.monotonic()
        self._proved_s = 0.0
        out: Path = given.out
        out.mkdir(parents=True, exist_ok=True)
        self._log = out / "visit.log"
        self._log.touch()
        shorten(self._log, 0, ALL_LOG_BYTES)
        visit = {
            "date": now()[:10], "commit": given.commit or commit(), "rehearsal": given.rehearse,
            "python": sys.version.split()[0], "bundles": bundles(), "budget_s": given.budget_s,
        }  # fmt: skip
        order = [stage.name for stage in visit_plan.STAGES]
        self.results = Results(out, visit, order)
        lay_out(work / "site")
        self._environment = environment(work / "site", work / "cache")
        if given.rehearse:
            # Threads that wait for each other in turns would take most of the time.
            self._environment["OMP_NUM_THREADS"] = "1"

    def run(self, stages: Sequence[Stage]) -> None:
        """All stages in turn, with a line for each."""
        for number, stage in enumerate(stages):
            left = self._given.budget_s - (time.monotonic() - self._began)
            patience = visit_plan.REHEARSAL_PATIENCE if self._given.rehearse else 1
            limit = seconds_for(stage, proved_s=self._proved_s, left_s=left, patience=patience)
            if limit is None:
                reason = f"too late: {max(left, 0):.0f} s left, {self._proved_s:.0f} s of proofs"
                result = self._blank(stage, "out of time", reason)
            else:
                result = self._one(stage, limit)
            self.results.add(result)
            if not stage.trains:
                self._proved_s += result["seconds"]
            told = f"{result['state']}{result['reason'] and ': ' + result['reason']}"
            say(f"[{number + 1}/{len(stages)}] {stage.name}: {told} ({result['seconds']:.1f} s)")

    def _one(self, stage: Stage, limit_s: float) -> Result:
        given = self._given
        say(f"{stage.name}: {stage.proves}; at most {limit_s:.0f} s")
        orders = Orders(
            stage.name, given.out, self.results.running, self._work, limit_s, given.rehearse,
            given.preset, self._pack(), given.start_from, given.wheels,
        )  # fmt: skip
        written = self._work / f"{stage.name}.json"
        orders.write(written)
        self.results.running.unlink(missing_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n===== {stage.name}, {now()}\n")
        start = self._log.stat().st_size
        began = time.monotonic()
        command = [sys.executable, str(stage.path), str(written)]
        try:
            ended = run_child(command, self._log, limit_s, self._environment, CHECKOUT)
        except CutOff:
            self.results.add(self._blank(stage, "cut off", "the visit was ended from outside"))
            raise
        except OSError as error:
            return self._blank(stage, "failed", f"the stage cannot start: {error}")
        finally:
            shorten(self._log, start, LOG_BYTES)
        result = self._blank(stage, *self._state(ended, limit_s, start))
        result["seconds"] = round(time.monotonic() - began, 2)
        return result

    def _pack(self) -> Path | None:
        """The one that was given, or that the rehearsal made."""
        made = self._work / "pack"
        pack: Path | None = self._given.pack
        return made if pack is None and (made / "pack.json").is_file() else pack

    def _state(self, ended: Ended, limit_s: float, log_start: int) -> tuple[str, str]:
        found = self.results.found_so_far()
        state, reason = found.get("state", "running"), found.get("reason", "")
        if ended.status is None:
            done = f", after {len(found.get('checks', []))} checks"
            return "timed out", f"killed at its limit of {limit_s:.0f} s{done}"
        if state != "running" and (ended.status == 0 or state == "failed"):
            return state, reason
        said = last_line(self._log, log_start)
        if ended.status < 0:
            name = signal.Signals(-ended.status).name
            return "killed", f"killed by {name}{said and '; it last said: ' + said}"
        return "failed", f"ended with status {ended.status}{said and ': ' + said}"

    def _blank(self, stage: Stage, state: str, reason: str) -> Result:
        """A result with what the stage found so far."""
        found = self.results.found_so_far()
        return {
            "stage": stage.name, "state": state, "reason": reason, "seconds": 0.0, "date": now(),
            "checks": found.get("checks", []), "facts": found.get("facts", {}),
        }  # fmt: skip


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def say(line: str) -> None:
    print(line, flush=True)


def commit() -> str:
    """Of the checkout, marked where files differ from it; "unknown" without git."""
    try:
        told = subprocess.run(
            ["git", "-C", CHECKOUT, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip()


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prove on a GPU, then train.")
    add = parser.add_argument
    add("--budget-s", type=float, default=780, help="seconds for all of it [780]")
    add("--out", type=Path, required=True, help="folder for results: at most 8 files of 15 MiB")
    add("--rehearse", action="store_true", help="without a GPU, at tiny sizes")
    add("--only", metavar="STAGE,…", help="these stages alone")
    add("--pack", type=Path, help="folder with a data pack (tests/gpu/pack.py makes it)")
    add("--preset", default="edge", help="what to train [edge]")
    add("--start-from", type=Path, metavar="CKPT", help="weights to start training from")
    add("--wheels", type=Path, metavar="DIR", help="wheels that the machine lacks")
    add("--commit", help="what to note as the commit, where there is no git")
    given = parser.parse_args(arguments)
    try:
        given.stages = visit_plan.chosen(given.only)
    except ValueError as error:
        parser.error(str(error))
    # `not`, so that a NaN is refused too.
    if not given.budget_s > 0:
        parser.error("--budget-s must be above 0")
    for name in ("out", "pack", "start_from", "wheels"):
        path = getattr(given, name)
        setattr(given, name, None if path is None else path.resolve())
    return given


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise CutOff(signal.Signals(number).name)


def visit(given: Any, stages: Sequence[Stage]) -> int:
    """Run the stages; the number of those that failed. Raises CutOff."""
    with tempfile.TemporaryDirectory(prefix="dsin-visit-") as work:
        whole = Visit(given, Path(work))
        whole.run(stages)
    names = [stage.name for stage in stages]
    mine = [one for one in whole.results.stages if one["stage"] in names]
    return exit_status(mine)


def main() -> None:
    given = options()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        status = visit(given, given.stages)
    except CutOff as event:
        sys.exit(f"ended by {event}; what was found until then is in {given.out}")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    say(f"{status} failed; results are in {given.out}")
    sys.exit(status)


if __name__ == "__main__":
    main()
