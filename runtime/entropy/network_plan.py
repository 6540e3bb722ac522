"""What an entropy model computes for a latent, where it lies, and in which order it is done."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.entropy.flag_coder import Flags
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE, step_positions
from dsin.runtime.entropy.hyper_kernels import BLOCK as SQUARE
from dsin.runtime.entropy.integer_tiles import POSITIONS, SIDE, Elements, per_word
from dsin.runtime.entropy.packed_network import Enlarging, PackedLayer, PackedNetwork, PackedStep

Array = NDArray[Any]
MARGIN = SIDE // 2
"""Of a layer by channel, in positions."""
_LINE = 32
"""Elements that volumes are aligned to: of int16 a line of the cache."""
_OUTPUT = 4
"""The field of a job that has its first output."""


class Volume(NamedTuple):
    """Part of a memory: where it begins, and elements per position of a picture with a margin."""

    start: int
    each: int
    height: int
    width: int
    margin: int = 0

    @property
    def size(self) -> int:
        return self.each * (self.height + 2 * self.margin) * self.per_row

    @property
    def per_row(self) -> int:
        """Positions, those of the margins included."""
        return self.width + 2 * self.margin

    def places(self, positions: Array, away: int = 0) -> Array:
        """Where flat positions of the picture begin, or those `away` rows and columns before."""
        rows, columns = np.divmod(positions, self.width)
        shift = self.margin - away
        found: Array = self.start + self.each * ((rows + shift) * self.per_row + columns + shift)
        return found


class Plan(NamedTuple):
    """For latents of one size. `phases` are the jobs that run in one go: two of the hyper-decoder,
    then two of each step. See `dsin.runtime.entropy.network_kernels.run_jobs` for the rest.

    In the memory of `size` elements, `z` are the inputs; of the first position, values that are
    decoded in a step begin at its number of `slots`, means and raw scales at those.
    """

    size: int
    z: Volume
    slots: list[int]
    per_position: int
    means: int
    raws: int
    per_value: int
    per_row: int
    phases: list[tuple[int, int]]
    jobs: Array
    places: Array
    targets: Array
    runs: Array

    def inputs(self, memory: Elements, channels: int) -> Elements:
        """The view of z in a memory, (h / 4, w / 4, channels)."""
        whole = memory[self.z.start :][: self.z.size].reshape(-1, self.z.per_row, self.z.each)
        inside: Elements = whole[1:-1, 1:-1, :channels]
        return inside

    def hyper_jobs(self, rate: int, packed: PackedNetwork) -> Array:
        """Jobs, of which the hyper-decoder's are those at a rate."""
        jobs: Array = self.jobs.copy()
        jobs[: self.phases[1][1], _OUTPUT] += min(rate, packed.rates - 1) * packed.per_rate
        return jobs


def plan_latent(packed: PackedNetwork, height: int, width: int, coded: Flags | None) -> Plan:
    """For latents of that size; `coded` are the blocks that are, None for all."""
    planner, size = _Planner(), per_word(packed.element)
    first, second = packed.enlarging
    rows, columns = height // HYPER_STRIDE, width // HYPER_STRIDE
    z = planner.volume(_whole(packed.z_channels, size), rows, columns, 1)
    half = planner.volume(first.large[0].outputs, 2 * rows, 2 * columns, 1)
    own, per_step = second.large[0].outputs, _whole(packed.widest, size)
    known = planner.volume(_uneven(own + per_step * len(packed.steps)), height, width)
    planner.enlarge(first, z, half)
    planner.enlarge(second, half, known)
    slots = [own + step * per_step for step in range(len(packed.steps))]
    step = packed.steps[0]
    stem = planner.volume(step.stem.outputs, height, width, MARGIN)
    spread = planner.volume(step.mix.outputs, height, width)
    mixed = planner.volume(step.mix.outputs, height, width)
    values = planner.volume(_uneven(step.out[0].outputs), height, width)
    found, _ = step_positions((packed.latent, height, width), len(slots), coded)
    wanted = _wanted(height, width, coded)
    for number, layers in enumerate(packed.steps):
        planner.stem(layers.stem, packed.order, wanted, number, known, slots, stem)
        planner.rest(layers, found[number], stem, spread, mixed, values)
    return Plan(
        planner.size, z, [known.start + slot for slot in slots], known.each, values.start,
        values.start + packed.widest, values.each, stem.per_row * stem.each, planner.phases,
        np.array(planner.jobs, np.int64), np.concatenate(planner.places),
        np.concatenate(planner.targets), np.array(planner.runs, np.int64),
    )  # fmt: skip


class _Planner:
    """Lists jobs, as `dsin.runtime.entropy.network_kernels.run_jobs` takes them."""

    def __init__(self) -> None:
        self.size = 0
        self.phases: list[tuple[int, int]] = []
        self.jobs: list[Sequence[int]] = []
        self.places: list[Array] = []
        self.targets: list[Array] = []
        self.runs: list[tuple[int, int, int]] = []
        self._listed = 0

    def volume(self, each: int, height: int, width: int, margin: int = 0) -> Volume:
        """A further one."""
        made = Volume(self.size, each, height, width, margin)
        self.size += _whole(made.size, _LINE)
        return made

    def enlarge(self, layers: Enlarging, source: Volume, target: Volume) -> None:
        """All of the source, to a picture of twice its size."""
        begun = len(self.jobs)
        inner = self.volume(layers.dense.outputs, source.height, source.width)
        every = np.arange(source.height * source.width)
        aways = [(a * source.per_row + b) * source.each for a, b in np.ndindex(3, 3)]
        self._dense(layers.dense, source.places(every, 1), inner.places(every), aways)
        rows, columns = np.divmod(every, source.width)
        for (a, b), layer in zip(np.ndindex(2, 2), layers.large, strict=True):
            into = (2 * rows + a) * target.width + 2 * columns + b
            self._dense(layer, inner.places(every), target.places(into), [0])
        self.phases.append((begun, len(self.jobs)))

    def stem(
        self, layer: PackedLayer, order: Array, wanted: Flags, number: int, known: Volume,
        slots: list[int], target: Volume,
    ) -> None:  # fmt: skip
        """The first layer of a step, place by place of a 2×2 square: at each, other parts of the
        latent are decoded already, one after the other."""
        begun = len(self.jobs)
        rows, columns = np.ogrid[: wanted.shape[0], : wanted.shape[1]]
        for a, b in np.ndindex(2, 2):
            here = np.flatnonzero(wanted & (rows % 2 == a) & (columns % 2 == b))
            parts = [int(np.flatnonzero(order[:, a, b] == turn)[0]) for turn in range(number)]
            own = layer._replace(
                firsts=[layer.firsts[n] for n in (0, *(1 + part for part in parts))],
                words=[layer.words[n] for n in (0, *(1 + part for part in parts))],
            )
            self._dense(own, known.places(here), target.places(here), [0, *slots[:number]])
        self.phases.append((begun, len(self.jobs)))

    def rest(
        self, layers: PackedStep, positions: Array, stem: Volume, spread: Volume, mixed: Volume,
        values: Volume,
    ) -> None:  # fmt: skip
        """The other layers, at the positions of each part (parts, n)."""
        begun = len(self.jobs)
        for part, here in zip(layers.out, positions, strict=True):
            depthwise = PackedLayer([], [], 0, layers.mix.outputs, layers.depthwise_ends)
            self._dense(depthwise, stem.places(here, MARGIN), spread.places(here), [])
            self._dense(layers.mix, spread.places(here), mixed.places(here), [0])
            self._dense(part, mixed.places(here), values.places(here), [0])
        self.phases.append((begun, len(self.jobs)))

    def _dense(
        self, layer: PackedLayer, places: Array, targets: Array, aways: Sequence[int]
    ) -> None:  # fmt: skip
        """A job, of the layer by channel without any runs. Nothing is done at no places."""
        if not places.size:
            return
        first, run, more = self._listed, len(self.runs), (0, -len(places) % POSITIONS)
        self.places.append(np.pad(places.astype(np.int64), more, "edge"))
        self.targets.append(np.pad(targets.astype(np.int64), more, "edge"))
        self._listed += len(self.places[-1])
        self.runs += zip(aways, layer.firsts, layer.words, strict=True)
        self.jobs.append(
            (first, self._listed, run, len(self.runs), layer.output, layer.outputs, layer.ends)
        )


def _wanted(height: int, width: int, coded: Flags | None) -> Flags:
    """Where symbols of coded blocks hang on a step's first layer, (height, width)."""
    if coded is None:
        return np.ones((height, width), np.bool_)
    around, near = np.pad(coded, 1), np.zeros_like(coded)
    for a, b in np.ndindex(3, 3):
        near |= around[a : a + coded.shape[0], b : b + coded.shape[1]]
    return near.repeat(SQUARE, 0).repeat(SQUARE, 1)


def _uneven(count: int) -> int:
    """At least so many elements, an odd number of lines: else the same channel of all positions
    would compete for few places in the cache."""
    lines = -(-count // _LINE)
    return (lines + 1 - lines % 2) * _LINE


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit
