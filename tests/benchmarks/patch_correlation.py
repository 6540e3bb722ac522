"""The search: every implementation on every kind of input, in one run.

    python tests/benchmarks/patch_correlation.py [--pairs LIST] [--root DIR] [--plot PNG] [--json F]

Prints a table, implementation × input: time (median, ms), how many times faster than brute-force
convolution in PyTorch on the same cores, peak memory beyond what was in use before (MiB), how many
positions are those of the definition (%), and how many of all positions were evaluated in full (%).
Then how the time grows with the picture. Only ratios within one run mean anything on a machine that
is busy with something else. Without a list, the built-in rig takes the place of real frames.
"""

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import patch_inputs
import patch_peers
from patch_inputs import Case, Image

from dsin.runtime.patch_correlation import definition as pc

Positions = tuple[Image, Image]
Search = Callable[[Case], Positions]
SIZES = ((1224, 320), (1920, 1080), (3840, 2160))
ORDINARY = "stereo frames"


class Row(NamedTuple):
    """What one implementation did on one kind of input."""

    implementation: str
    inputs: str
    time_ms: float
    ratio: float
    memory_mib: float
    exact_percent: float
    evaluated_percent: float


def fast(case: Case) -> Positions:
    """`match`, from pictures to positions."""
    found = pc.match(case.x, case.y, prior=case.prior)
    return found.row, found.col


def definition(case: Case) -> Positions:
    found = pc.match_reference(case.x, case.y, prior=case.prior)
    return found.row, found.col


def implementations(gpu: "patch_peers.Cuda | None") -> dict[str, Search]:
    """Everything that runs on this machine; the first is what the others are compared with."""
    return {
        "PyTorch brute force": patch_peers.brute_force,
        "dsin, CPU": fast,
        **({"dsin, CUDA with copies": gpu.search} if gpu else {}),
        **patch_peers.peers(),
    }


def timed(search: Search, case: Case, repeats: int) -> tuple[float, Positions]:
    """Median ms and the positions."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = search(case)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), found


def memory_mib(search: Search, case: Case) -> float:
    """How far the peak rises above what was in use."""
    before = _reset_peak_mib()
    search(case)
    return _peak_mib() - before


def keep_freed_memory() -> None:
    """Large tensors are then not mapped anew each time, which halves the time of brute force."""
    libc, trim_threshold, top_pad, mmap_max = ctypes.CDLL(None), -1, -2, -4
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # never
    libc.mallopt(top_pad, 2**28)


def _reset_peak_mib() -> float:
    """Give freed memory back, forget the peak, and return what is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mib()


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def rows_of(inputs: str, cases: list[Case], searches: dict[str, Search]) -> list[Row]:
    """All implementations on the cases of one kind."""
    truth = [definition(case) for case in cases]
    rows: list[Row] = []
    for name, search in searches.items():
        runs = [timed(search, case, 3 if name == "dsin, CPU" else 1) for case in cases]
        time_ms = statistics.median(run[0] for run in runs)
        exact = [_same(run[1], found) for run, found in zip(runs, truth, strict=True)]
        shares = [_evaluated(case) for case in cases] if name == "dsin, CPU" else [1.0]
        rows.append(
            Row(
                name, inputs, time_ms, (rows[0].time_ms if rows else time_ms) / time_ms,
                memory_mib(search, cases[0]), 100 * statistics.mean(exact),
                100 * statistics.mean(shares),
            )
        )  # fmt: skip
        _show(rows[-1])
    return rows


def _same(found: Positions, truth: Positions) -> float:
    return float(((found[0] == truth[0]) & (found[1] == truth[1])).mean())


def _evaluated(case: Case) -> float:
    """Windows that were compared in full, as a share of all, over all patches."""
    from dsin.runtime.patch_correlation.patch_search import evaluations

    counts = evaluations(case.x, case.y, prior=case.prior)
    height, width = case.x.shape[:2]
    return float(counts.mean() / ((height - 20 + 1) * (width - 24 + 1)))


def prepared_apart(cases: list[Case]) -> tuple[float, float]:
    """Median ms of what needs y alone, and of the rest."""
    apart = []
    for case in 3 * cases:
        start = time.perf_counter()
        prepared = pc.prepare(case.y)
        between = time.perf_counter()
        pc.match(case.x, case.y, prepared=prepared)
        apart.append((1000 * (between - start), 1000 * (time.perf_counter() - between)))
    return statistics.median(a for a, _ in apart), statistics.median(b for _, b in apart)


def growth() -> list[tuple[int, int, float, float]]:
    """(width, height, ms, MiB) of `match` at each size."""
    found = []
    for width, height in SIZES:
        case = patch_inputs.large(width, height)
        time_ms, _ = timed(fast, case, 3)
        found.append((width, height, time_ms, memory_mib(fast, case)))
        print(f"{width}x{height}: {time_ms:.0f} ms, {found[-1][3]:.0f} MiB", flush=True)
    return found


def _show(row: Row) -> None:
    print(
        f"{row.inputs:<17} {row.implementation:<22} {row.time_ms:9.1f} {row.ratio:7.2f}"
        f" {row.memory_mib:7.0f} {row.exact_percent:7.2f} {row.evaluated_percent:8.4f}",
        flush=True,
    )


def plot(rows: list[Row], sizes: list[tuple[int, int, float, float]], path: Path) -> None:
    """Times by input and implementation, and the growth with the picture's size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(2, 1))
    names = list(dict.fromkeys(row.implementation for row in rows))
    inputs = list(dict.fromkeys(row.inputs for row in rows))
    thickness = 0.8 / len(names)
    for n, name in enumerate(names):
        times = {row.inputs: row.time_ms for row in rows if row.implementation == name}
        at = np.array([inputs.index(kind) for kind in times])
        left.barh(at + n * thickness, list(times.values()), thickness, label=name)
    left.set_yticks(np.arange(len(inputs)) + 0.4 - thickness / 2, inputs)
    left.invert_yaxis()
    left.set(xscale="log", xlabel="time, ms", title="320×1224, images to positions")
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=len(names))
    megapixels = [width * height / 1e6 for width, height, *_ in sizes]
    right.plot(megapixels, [size[2] for size in sizes], "o-", label="dsin, CPU")
    first = sizes[0][2]
    right.plot(megapixels, [first * m / megapixels[0] for m in megapixels], ":", label="linear")
    squares = [first * (m / megapixels[0]) ** 2 for m in megapixels]
    right.plot(megapixels, squares, "--", label="quadratic, as brute force")
    right.set(xscale="log", yscale="log", ylabel="time, ms", title="Growth")
    right.minorticks_off()
    right.set_xticks(megapixels, [f"{width}×{height}" for width, height, *_ in sizes])
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=Path, help="pair list; the built-in rig without one")
    parser.add_argument("--root", type=Path, help="what the list's paths are relative to")
    parser.add_argument("--count", type=int, default=5, help="pairs of the list to take")
    parser.add_argument("--plot", type=Path, help="write the plot here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    keep_freed_memory()
    stereo = patch_inputs.views(options.pairs, options.root, options.count)
    gpu = patch_peers.cuda()
    searches = implementations(gpu)
    cases = patch_inputs.ordinary(stereo)
    for search in searches.values():
        search(cases[0])  # compiles, and loads libraries
    print(
        f"{'input':<17} {'implementation':<22} {'ms':>9} {'faster':>7} {'MiB':>7} {'exact %':>7}"
        f" {'evaluated %':>8}"
    )
    rows = rows_of(ORDINARY, cases, searches)
    prepare_ms, rest_ms = prepared_apart(cases)
    print(f"dsin, CPU: {prepare_ms:.1f} ms need y alone, {rest_ms:.1f} ms the rest")
    if gpu:
        print(f"dsin, CUDA: {gpu.kernel_ms(cases[0]):.3f} ms on pictures that are on the GPU")
    for inputs, case in patch_inputs.hard(stereo).items():
        rows += rows_of(inputs, [case], searches)
    sizes = growth()
    if options.plot:
        plot(rows, sizes, options.plot)
    if options.json:
        figures = {
            "rows": [row._asdict() for row in rows],
            "prepare_ms": prepare_ms,
            "search_ms": rest_ms,
            "sizes": [dict(zip(("width", "height", "ms", "mib"), s, strict=True)) for s in sizes],
        }
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
