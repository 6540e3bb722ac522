"""Integer layers over lists of positions, compiled.

All that a network computes lies in one flat memory, each position with all its channels. A job is a
layer at a list of positions: where its inputs begin, and where its outputs go. So any part of a
picture may be computed, and layers that shuffle positions write where they belong. The inputs of a
position are runs of channels, each with weights of its own:

    pointwise layer        one run
    3×3 convolution        nine runs, of the neighbours
    first layer of a step  the features, then each part of the latent that is decoded at this place
"""

from typing import Any

from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point
from dsin.runtime.entropy.integer_tiles import (
    BLOCK,
    POSITIONS,
    Elements,
    dense_tile,
    depthwise_tile,
)

Array = NDArray[Any]
JOB_FIELDS = 7
"""First position and end, first run and end (none: a layer by channel), first output, number of
outputs, bounds."""


@entry_point()
def run_jobs(
    memory: Elements, jobs: Array, places: Array, targets: Array, runs: Array, weights: Elements,
    bias: Array, factor: Array, taps: Array, per_row: int, ends: Array, task: int, tasks: int,
) -> None:  # fmt: skip
    """Do jobs int64 (n, JOB_FIELDS): those positions of each that one of `tasks` threads has, which
    are those of `task_span`. No job needs what another one yields at other positions.

    `places` and `targets` int64 have a multiple of POSITIONS for each job, of which some may be the
    same. `weights`, `bias`, `factor` and `ends` are those of all layers; see `dense_tile`. `taps`
    and `per_row` are those of the layer by channel; see `depthwise_tile`.
    """
    for job in range(len(jobs)):
        start, tiles = jobs[job, 0], (jobs[job, 1] - jobs[job, 0]) // POSITIONS
        first = start + tiles * task // tasks * POSITIONS
        last = start + tiles * (task + 1) // tasks * POSITIONS
        output, count = jobs[job, 4], jobs[job, 5]
        low, high = ends[jobs[job, 6], 0], ends[jobs[job, 6], 1]
        if jobs[job, 2] == jobs[job, 3]:
            for p in range(first, last):
                depthwise_tile(memory, places[p], per_row, targets[p], taps, count, low, high)
            continue
        own = runs[jobs[job, 2] : jobs[job, 3]]
        biases, factors = bias[output : output + count], factor[output : output + count]
        for block in range(count // BLOCK):
            for p in range(first, last, POSITIONS):
                dense_tile(
                    memory, places, targets, p, own, weights, block, biases, factors, low, high
                )


def task_span(positions: int, task: int, tasks: int) -> tuple[int, int]:
    """First and end of the positions that a task has of a job with so many."""
    tiles = -(-positions // POSITIONS)
    first, end = (tiles * number // tasks * POSITIONS for number in (task, task + 1))
    return min(first, positions), min(end, positions)
