"""Every CUDA kernel against its definition: on real frames, then in the project's tests.

Those have the adversarial inputs: ties, flat pictures, noise, repeated texture, NaN, bands.
"""

from collections.abc import Callable
from typing import Any

import kernel_checks
import numpy as np
from stage import Orders, Report, machine, run
from suite import run_tests
from visit_frames import as_decoded, frames, middle

FILES = (
    "runtime/patch_correlation/test_block_cuda.py",
    "runtime/patch_correlation/test_patch_cuda.py",
)
REHEARSED = "matches_of_a_pair and size1"
WHOLE = (320, 1224)
CUT = (80, 240)
"""What the definition, which knows no shortcut, is given of a frame."""


def work(orders: Orders, report: Report) -> None:
    found = frames(orders.pack, 1 if orders.rehearse else 2)
    report.facts(frames=found.source)
    cut = (40, 72) if orders.rehearse else CUT
    whole = (44, 76) if orders.rehearse else WHOLE
    with machine(orders) as pool:

        def check(name: str, size: tuple[int, int], call: Callable[..., Any], **more: Any) -> None:
            told: list[str] = []
            with report.part(name):
                for pair in found.pairs:
                    x, y = (middle(view, *size) for view in pair)
                    x_dec, y_dec = as_decoded(x), as_decoded(y)
                    if call is kernel_checks.blocks:
                        x_dec, y_dec = (v.round().astype(np.uint8) for v in (x_dec, y_dec))
                    told += pool.submit(call, x_dec, y_dec, y, **more).result()
                counted = f"{len(found.pairs)} of {found.source} at {size[1]}x{size[0]}"
                report.check(name, not told, "; ".join([counted, *told[:3]]))

        check("search, whole frames", whole, kernel_checks.fast_search)
        check("search, cut", cut, kernel_checks.search)
        check("search by L2, cut", cut, kernel_checks.search, measure="l2")
        check("block refinement", cut if orders.rehearse else WHOLE, kernel_checks.blocks)
    # The stage `operator` rehearses the other file's.
    run_tests(orders, report, FILES[:1] if orders.rehearse else FILES, rehearsed=REHEARSED)


if __name__ == "__main__":
    run(work)
