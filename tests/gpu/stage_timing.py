"""How long the search takes, kernel by kernel, and what other ways to the same positions take.

Times are medians of many runs after a warm-up. Those of single kernels have a little of the events
around them, so that their sum is above the time of the whole. The aim is 0.3 ms at 1224x320.
"""

import statistics
import time
from typing import Any

import brute_force
import cv2
import kernel_times
import numpy as np
from stage import Orders, Report, machine, need_gpu, need_torch_on_gpu, run
from visit_frames import as_decoded, frames, middle

SIZES = ((320, 1224), (375, 1242))
AIM_MS = 0.3
LEAST_GIB = 6.0
PATCHES = 16
"""Of a frame, that OpenCV is timed with."""


def work(orders: Orders, report: Report) -> None:
    if not orders.rehearse:
        need_gpu(LEAST_GIB)
        need_torch_on_gpu()
    found = frames(orders.pack, 1)
    report.facts(frames=found.source, aim_ms=AIM_MS)
    sizes = ((60, 96),) if orders.rehearse else SIZES
    with machine(orders, LEAST_GIB) as pool:
        for size in sizes:
            x, y = (as_decoded(middle(view, *size)) for view in found.pairs[0])
            with report.part(f"times at {size[1]}x{size[0]}"):
                _time(orders, report, pool, x, y)
    x, y = (as_decoded(middle(view, *sizes[0])) for view in found.pairs[0])
    _opencv(report, x, y)


def _time(orders: Orders, report: Report, pool: Any, x: Any, y: Any) -> None:
    size = f"{x.shape[1]}x{x.shape[0]}"
    times = pool.submit(kernel_times.search_times, x, y, 1 if orders.rehearse else 200).result()
    missing = kernel_times.EXPECTED - times.keys()
    whole = times.pop("whole search")
    report.check(
        f"search at {size}", not missing,
        f"{whole:.3f} ms, aim {AIM_MS} ms" + (f", without {sorted(missing)}" if missing else ""),
    )  # fmt: skip
    for name, ms in times.items():
        report.tell(f"{name}, {size}", f"{ms:.4f} ms")
    report.facts(**{f"search_ms_{size}": {"whole search": whole, **times}})
    _blocks(orders, report, pool, x, y)
    kinds = ("fp32", "bf16") if orders.rehearse else ("fp32", "tf32", "fp16", "bf16")
    repeats = 1 if orders.rehearse else 20
    brute = pool.submit(brute_force.brute_force_times, x, y, kinds, repeats).result()
    report.facts(**{f"brute_force_ms_{size}": brute})
    for kind, (ms, same) in brute.items():
        report.tell(
            f"PyTorch brute force in {kind}, {size}",
            f"{ms:.3f} ms, {ms / whole:.1f} times the search; {same:.1f} % of fp32's positions",
        )


def _blocks(orders: Orders, report: Report, pool: Any, x: Any, y: Any) -> None:
    """Of whole levels, cut to whole blocks."""
    rows, columns = (side // 8 * 8 for side in x.shape[:2])
    whole = [np.ascontiguousarray(v[:rows, :columns].round().astype(np.uint8)) for v in (x, y)]
    repeats = 1 if orders.rehearse else 200
    times = pool.submit(kernel_times.block_times, whole[0], whole[1], whole[1], repeats).result()
    size, missing = f"{columns}x{rows}", kernel_times.BLOCK_EXPECTED - times.keys()
    report.check(
        f"refinement at {size}", not missing, f"{times.pop('whole refinement'):.4f} ms"
    )  # fmt: skip
    for name, ms in times.items():
        report.tell(f"{name}, {size}", f"{ms:.4f} ms")
    report.facts(**{f"refinement_ms_{size}": times})


def _opencv(report: Report, x: Any, y: Any) -> None:
    """Template matching on the CPU, from some patches of the picture to all."""
    count = -(-x.shape[0] // 20) * -(-x.shape[1] // 24)
    times = []
    for n in range(min(PATCHES, x.shape[1] // 24)):
        patch = np.ascontiguousarray(x[:20, 24 * n : 24 * n + 24])
        began = time.perf_counter()
        cv2.matchTemplate(y, patch, cv2.TM_CCOEFF_NORMED)
        times.append(1000 * (time.perf_counter() - began))
    median = statistics.median(times)
    report.facts(opencv_patch_ms=median, opencv_threads=cv2.getNumThreads())
    report.tell(
        f"cv2.matchTemplate on the CPU, {x.shape[1]}x{x.shape[0]}",
        f"{median * count:.0f} ms for {count} patches, from {len(times)}",
    )


if __name__ == "__main__":
    run(work)
