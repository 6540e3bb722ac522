"""A profile as one HTML file: no script, nothing from elsewhere, light and dark, wide and narrow.

The file is well-formed XML too. Bars are SVG in percent of their box, so text keeps its size on a
phone; all text is HTML.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from dsin.runtime.profiling.graphs import GraphProfile
from dsin.runtime.profiling.pipeline import ROOMS
from dsin.runtime.profiling.report import (
    COLUMNS,
    Profile,
    absent_bounds,
    bound_cells,
    cells,
    describe,
    describe_machine,
    facts,
)
from dsin.runtime.profiling.statistics import Statistics

_ROOM_WORDS = {
    "device": "device: frame to packet",
    "link": "link: loopback, there and back",
    "side": "server: its own view",
    "server": "server: packet to picture",
}
_MARKS = ("p50", "p90", "p99")

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #16191f;
  --soft: #5b6472; --line: #dfe3e9; --device: #2f6fde; --link: #7d8796; --side: #14936b;
  --server: #d9642a; --good: #14804f; --bad: #b3261e; --hist: #8fb1ec; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #191d23; --ink: #e8ebf0;
  --soft: #9aa4b2; --line: #2d343d; --device: #6d9df5; --link: #9099a6; --side: #3fbf93;
  --server: #f08a55; --good: #4cc38a; --bad: #ff8a80; --hist: #40649f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 4px; }
p { margin: 4px 0; } .soft { color: var(--soft); font-size: 0.87rem; }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 16px; margin-top: 16px; }
.verdict { display: inline-block; margin: 12px 0 4px; padding: 2px 12px; border-radius: 99px;
  border: 1.5px solid; font-weight: 600; }
.yes { color: var(--good); } .no { color: var(--bad); }
ul { margin: 4px 0; padding-left: 20px; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  margin-top: 16px; }
.tile { padding: 12px 16px; } .tile b { display: block; font-size: 1.45rem; font-weight: 650; }
.row { display: grid; grid-template-columns: 8.5em 1fr 5.5em; gap: 10px; align-items: center; }
.row svg { width: 100%; height: 18px; display: block; overflow: visible; }
.row span:last-child { white-space: nowrap; }
.row span:last-child, td, th { text-align: right; font-variant-numeric: tabular-nums; }
.room { margin: 10px 0 2px; font-size: 0.87rem; font-weight: 600; }
.chart { width: 100%; height: 170px; display: block; border-bottom: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; }
.key { display: inline-block; margin-right: 16px; }
.key i { display: inline-block; width: 14px; height: 3px; margin-right: 6px;
  vertical-align: middle; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
td, th { padding: 3px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 0.87rem; }
td:first-child, th:first-child { text-align: left; }
tr.total td { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 8px 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { .row { grid-template-columns: 6.5em 1fr 4.6em; gap: 6px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } }
"""


def to_html(profile: Profile) -> str:
    """The whole page."""
    title = f"dsin profile: {profile.conditions.bundle}"
    body = "\n".join(
        (_head(profile), _tiles(profile), _waterfall(profile), _distribution(profile),
         _stage_table(profile), _roofline(profile), _facts(profile))
    )  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body><main>\n{body}\n</main></body>\n</html>\n"
    )


def _head(profile: Profile) -> str:
    valid = ("yes", "valid") if profile.valid else ("no", "not valid")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in profile.invalid_reasons)
    return (
        f"<h1>dsin profile</h1>\n<p>{escape(describe(profile))}</p>\n"
        f'<p class="soft">{escape(describe_machine(profile))}; '
        f"{escape(profile.measured_at)}</p>\n"
        + "".join(f'<p class="soft">{escape(note)}</p>\n' for note in profile.notes)
        + f'<p class="verdict {valid[0]}">{valid[1]}</p>'
        + (f"<ul>{reasons}</ul>" if reasons else "")
    )


def _tiles(profile: Profile) -> str:
    tiles = [
        (f"{_short(profile.single_stream_p90_ms)} ms", "p90 latency, single stream"),
        (f"{profile.throughput_fps:.2f}", "frames per second, all in turn"),
        (f"{profile.bytes_per_frame.mean:.0f} B", f"per frame, {profile.bits_per_pixel:.4f} bpp"),
        (f"{profile.memory.peak_rss_mib:.0f} MiB", "resident memory at most"),
        (f"{_median(profile.start.cold_ms):.0f} ms", "cold start to the first packet"),
    ]
    if profile.power is not None:
        energy = f"J per frame at {profile.power.mean_w:.1f} W"
        tiles.append((f"{profile.power.energy_per_frame_j:.2f}", energy))
    boxes = (
        f'<div class="tile"><b>{escape(value)}</b><span class="soft">{escape(what)}</span></div>'
        for value, what in tiles
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def _waterfall(profile: Profile) -> str:
    """Medians one after the other; a thin line goes on to each stage's p99."""
    stages = profile.stages_ms
    ends = np.cumsum([times.p50 for times in stages.values()]).tolist()
    starts = [0.0, *ends[:-1]]
    # The largest p99 still fits.
    span = max(start + times.p99 for start, times in zip(starts, stages.values(), strict=True))
    rows, room = [], ""
    for start, (name, times) in zip(starts, stages.items(), strict=True):
        before, room = room, name.partition(".")[0]
        if room != before:
            rows.append(f'<p class="room">{escape(_ROOM_WORDS[room])}</p>')
        rows.append(_bar(name.partition(".")[2], room, start, times, span))
    return _section(
        "Where the time goes",
        "Median of each stage, one after the other; the thin line goes on to its p99.",
        "\n".join(rows),
    )


def _bar(label: str, room: str, start: float, times: Statistics, span: float) -> str:
    x, width, tail = (100 * ms / span for ms in (start, times.p50, start + times.p99))
    return (
        f'<div class="row"><span>{escape(label.replace("_", " "))}</span><svg>'
        f'<line x1="{x:.3f}%" x2="{tail:.3f}%" y1="9" y2="9" stroke="var(--{room})" '
        f'stroke-opacity="0.55" stroke-width="2" />'
        f'<rect x="{x:.3f}%" y="2" width="{max(width, 0.25):.3f}%" height="14" rx="2" '
        f'fill="var(--{room})" />'
        f"<title>{escape(_tooltip(times))}</title></svg><span>{_short(times.p50)} ms</span></div>"
    )


def _distribution(profile: Profile) -> str:
    samples, times = profile.end_to_end_ms, profile.latency_ms["end_to_end"]
    keys = "".join(
        f'<span class="key"><i style="background: {_colour(mark)}"></i>'
        f"{mark} {getattr(times, mark):.1f} ms</span>"
        for mark in _MARKS
    )
    low, high = min(samples), max(samples)
    return _section(
        "Latency, frame to picture",
        f"{len(samples)} frames; mean {times.mean:.1f} ms, CV {100 * times.cv:.1f} %.",
        f'<p class="soft">{keys}</p>\n{_histogram(samples, times)}\n'
        f'<div class="ends soft"><span>{low:.1f} ms</span><span>{high:.1f} ms</span></div>\n'
        f'<p class="soft" style="margin-top: 18px">frame after frame, from 0 to '
        f"{high:.1f} ms</p>\n{_course(samples, times)}\n"
        f'<div class="ends soft"><span>first</span><span>last</span></div>',
    )


def _histogram(samples: Sequence[float], times: Statistics) -> str:
    bins = int(np.clip(np.ceil(2 * len(samples) ** (1 / 3)) * 2, 8, 40))
    counts, edges = np.histogram(samples, bins)
    low, span = float(edges[0]), float(edges[-1] - edges[0])
    bars = []
    for count, (left, right) in zip(counts.tolist(), pairwise(edges.tolist()), strict=True):
        height = 96 * count / int(counts.max())
        bars.append(
            f'<rect x="{100 * (left - low) / span:.3f}" y="{100 - height:.3f}" '
            f'width="{94 / bins:.3f}" height="{height:.3f}" fill="var(--hist)">'
            f"<title>{left:.1f} to {right:.1f} ms: {count}</title></rect>"
        )
    lines = (
        _line(100 * (getattr(times, mark) - low) / span, 0, None, 100, _colour(mark))
        for mark in _MARKS
    )
    return _chart("How many frames had which latency", [*bars, *lines])


def _course(samples: Sequence[float], times: Statistics) -> str:
    top, step = max(samples) * 1.04, 100 / max(1, len(samples) - 1)
    points = " ".join(f"{i * step:.3f},{100 - 100 * ms / top:.3f}" for i, ms in enumerate(samples))
    lines = (
        _line(0, 100 - 100 * getattr(times, mark) / top, 100, None, _colour(mark))
        for mark in _MARKS
    )
    curve = (
        f'<polyline points="{points}" fill="none" stroke="var(--soft)" stroke-width="1.5" '
        'vector-effect="non-scaling-stroke" />'
    )
    return _chart("Latency of each frame in turn", [*lines, curve])


def _line(x: float, y: float, x2: float | None, y2: float | None, colour: str) -> str:
    """From (x, y); an end that is None is where it began."""
    x_end, y_end = x if x2 is None else x2, y if y2 is None else y2
    return (
        f'<line x1="{x:.3f}" y1="{y:.3f}" x2="{x_end:.3f}" y2="{y_end:.3f}" stroke="{colour}" '
        'stroke-width="2" vector-effect="non-scaling-stroke" />'
    )


def _chart(label: str, shapes: Iterable[str]) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )


def _stage_table(profile: Profile) -> str:
    rows = [(name.replace("_", " ").replace(".", " "), times, "")
            for name, times in profile.stages_ms.items()]  # fmt: skip
    rows += [(f"all of {room}", profile.latency_ms[room], "total") for room in ROOMS]
    rows.append(("end to end", profile.latency_ms["end_to_end"], "total"))
    body = (
        f'<tr class="{kind}">' + _cells([name, *cells(times)]) + "</tr>"
        for name, times, kind in rows
    )
    return _section(
        "Stages, in milliseconds",
        "Capture counts in neither device nor end to end. The server's own view is prepared in "
        "turn here, and counts.",
        _table(["stage", *COLUMNS], body),
    )


def _roofline(profile: Profile) -> str:
    line = profile.roofline
    chip = (
        f"The processor did {line.gmacs_before:.1f} GMAC/s in a float32 product before the run and "
        f"{line.gmacs_after:.1f} after it, and copied {line.gbytes:.1f} GB/s, read and written."
    )
    if line.absent is not None:
        return _section("Rooflines", chip, f"<p>None: {escape(line.absent)}.</p>")
    heads = ["graph", "runs", "GMAC", "MB", "ms alone", "GMAC/s", "bound, ms", "by", "of bound"]
    body = (f"<tr>{_cells(_graph_cells(graph))}</tr>" for graph in line.graphs)
    note = (
        " Each graph alone on one frame's inputs: the bound is the least time for its products "
        "and for what they read and write."
    ) + "".join(f" No bound: {reason}." for reason in absent_bounds(line))
    doubt = "" if line.doubt is None else f'<p class="no">Doubtful: {escape(line.doubt)}.</p>'
    return _section("Rooflines", chip + note, doubt + _table(heads, body))


def _graph_cells(graph: GraphProfile) -> list[str]:
    bound, share = bound_cells(graph)
    return [
        f"{graph.graph} ({graph.precision})", str(graph.runs_per_frame), f"{graph.gmac:.3f}",
        f"{graph.mbytes:.1f}", f"{graph.ms.p50:.2f}", f"{graph.achieved_gmacs:.1f}",
        bound, graph.limited_by or "-", share,
    ]  # fmt: skip


def _facts(profile: Profile) -> str:
    what = profile.identity
    entries = [
        *facts(profile),
        ("bundle", f"codec id {what.codec_id}, bundle.json sha256 {what.bundle_sha256}"),
        ("input", f"{what.input_name}, {what.input_frames} frames, sha256 {what.input_sha256}"),
        ("system", profile.machine.system),
    ]
    inside = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries)
    return _section("Also measured, and on what", "", f"<dl>{inside}</dl>")


def _section(title: str, note: str, inside: str) -> str:
    soft = f'<p class="soft">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{soft}{inside}\n</section>"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(values: Iterable[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _tooltip(times: Statistics) -> str:
    names = ("min", *_MARKS, "max")
    return ", ".join(f"{name} {getattr(times, name):.2f} ms" for name in names)


def _short(ms: float) -> str:
    return f"{ms:.2f}" if ms < 100 else f"{ms:.0f}"


def _colour(mark: str) -> str:
    return {"p50": "var(--side)", "p90": "var(--device)", "p99": "var(--server)"}[mark]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
