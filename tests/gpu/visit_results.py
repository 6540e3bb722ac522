"""What a visit brings home, in at most eight files of at most 15 MiB.

    results.json       every stage's result; rewritten after each stage
    summary.md         the table for `.docs/gpu.md`; rewritten after each stage
    visit.log          what the stages printed, the middle of long output left out
    running.json       of the stage that is under way: what it has found so far
    checkpoint.json, checkpoint.part0 …   see `checkpoint_parts`

A result: {"stage", "state", "reason", "seconds", "date", "checks", "facts"}. `checks` are {"name",
"ok" (true, false, or null for what is only told), "value"}; `facts` are numbers and texts.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

State = Literal[
    "passed", "failed", "timed out", "killed", "out of time", "cut off", "not carried", "refused"
]  # fmt: skip
FAILED: tuple[State, ...] = ("failed", "timed out", "killed", "out of time", "cut off")
MOST_STATUS = 125

Result = dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """The whole text or what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class Results:
    """The results in a folder, those of earlier calls among them: a stage that runs again takes
    the place of its earlier result."""

    def __init__(self, folder: Path, visit: Mapping[str, Any], order: Sequence[str]) -> None:
        self._folder, self._visit, self._order = folder, dict(visit), list(order)
        self.stages: list[Result] = _read(folder / "results.json").get("stages", [])

    @property
    def running(self) -> Path:
        """Where the stage that is under way writes."""
        return self._folder / "running.json"

    def found_so_far(self) -> Result:
        """What the stage under way has written; empty before it wrote."""
        return _read(self.running)

    def add(self, result: Result) -> None:
        """Write all files anew."""
        kept = [one for one in self.stages if one["stage"] != result["stage"]]
        places = {name: place for place, name in enumerate(self._order)}
        self.stages = sorted(
            [*kept, result], key=lambda one: places.get(one["stage"], len(places))
        )  # fmt: skip
        write_json(self._folder / "results.json", {"visit": self._visit, "stages": self.stages})
        write_atomically(self._folder / "summary.md", summary(self._visit, self.stages))
        self.running.unlink(missing_ok=True)


def exit_status(results: Sequence[Result]) -> int:
    """How many failed, at most 125."""
    return min(sum(result["state"] in FAILED for result in results), MOST_STATUS)


def summary(visit: Mapping[str, Any], results: Sequence[Result]) -> str:
    """A table of all checks, with what was only told; in Markdown."""
    facts: Result = next((one["facts"] for one in results if one["stage"] == "machine"), {})
    title = [
        str(visit["date"]), str(facts.get("gpu", "GPU unknown")),
        f"driver {facts.get('driver', 'unknown')}", f"commit {visit['commit']}",
    ]  # fmt: skip
    if visit.get("rehearsal"):
        title.append("a rehearsal without a GPU")
    lines = [f"### {', '.join(title)}", "", "| stage | check | result | measured |"]
    lines.append("|---|---|---|---|")
    for result in results:
        reason = f"{result['reason']} " if result["reason"] else ""
        told = f"{reason}({result['seconds']:.1f} s)"
        lines.append(_row(f"**{result['stage']}**", "", f"**{result['state']}**", told))
        for check in result["checks"]:
            lines.append(_row("", check["name"], _word(check["ok"]), check["value"]))
    return "\n".join(lines) + "\n"


def _word(ok: bool | None) -> str:
    return {True: "passed", False: "failed", None: ""}[ok]


def _row(*cells: str) -> str:
    # A bar would end the cell, a line break the row.
    clean = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(clean)} |"


def _read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
