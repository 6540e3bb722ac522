"""The networks of an entropy model on the CPU, in compiled integers.

What a latent needs lies in one memory: z, the hyper-decoder's layers, and of each position what the
steps are given, which is the features, then the values decoded there in the order of the steps. So
the first layer of a step reads no more than what is decoded already, and the last computes the
parts that the step codes. Where a latent is coded in part, only what its symbols hang on is.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import Team
from dsin.runtime.entropy.flag_coder import Flags
from dsin.runtime.entropy.hyper_codec import HyperTables, Kept, Part, step_positions, turns
from dsin.runtime.entropy.hyper_kernels import (
    CONTEXT,
    SIGNED,
    Span,
    choose_tables,
    keep_values,
    put_symbols,
    quantise_symbols,
)
from dsin.runtime.entropy.integer_coder import Integers
from dsin.runtime.entropy.integer_network import IntegerLayer
from dsin.runtime.entropy.integer_tiles import ELEMENT, Elements, aligned
from dsin.runtime.entropy.network_kernels import run_jobs, task_span
from dsin.runtime.entropy.network_plan import Plan, plan_latent
from dsin.runtime.entropy.packed_network import PackedNetwork
from dsin.runtime.errors import BundleError

Limits = tuple[int, int]
_SHORT = np.iinfo(np.int16)
_KEPT = 4
"""So many sizes' plans are kept, and so many memories."""


class KernelNetwork:
    """See `dsin.runtime.entropy.hyper_codec.EntropyNetwork`. May be used by several threads.

    `hyper` are a 3×3 layer, a pointwise one that enlarges, and both again; of each of `steps` the
    layers are pointwise, 5×5 by channel, pointwise and pointwise. `threads` limits those of a call;
    `element` is what the layers compute in.
    """

    def __init__(
        self, hyper: Sequence[IntegerLayer], steps: Sequence[Sequence[IntegerLayer]],
        tables: HyperTables, threads: int | None = None, element: type[np.generic] = ELEMENT,
    ) -> None:  # fmt: skip
        """Raises BundleError for layers that do not fit together or would not be exact."""
        _check_hyper(hyper, tables.z_scales.shape[1])
        for layers in steps:
            _check_step(layers, hyper[-1])
        if len({tuple(len(layer.weight) for layer in layers) for layers in steps}) > 1:
            raise BundleError("the step graphs have different widths: export anew")
        self.packed = PackedNetwork(hyper, steps, turns(len(steps)), element)
        self.scale_numbers = tables.scale_numbers
        self.team = Team(threads)
        self._lock = threading.Lock()
        self._plans: dict[tuple[int, int], Plan] = {}
        self._memories: list[tuple[tuple[int, ...], Elements]] = []

    @property
    def count(self) -> int:
        """Of steps."""
        return len(self.packed.steps)

    def begin(
        self, z: Integers, rate: int, shape: tuple[int, int, int], kept: Kept | None
    ) -> "KernelSteps":
        """A latent of that shape."""
        if shape[0] != self.packed.latent or len(z) != self.packed.z_channels:
            raise BundleError("the latent has other channels than its entropy model: export anew")
        return KernelSteps(self, z, rate, shape, kept)

    def plan(self, height: int, width: int, coded: Flags | None) -> Plan:
        """For a latent of that size; `coded` are its blocks that are, None for all."""
        if coded is not None:
            return plan_latent(self.packed, height, width, coded)
        with self._lock:
            plan = self._plans.pop((height, width), None)
            if plan is None:
                plan = plan_latent(self.packed, height, width, None)
            self._plans[height, width] = plan
            if len(self._plans) > _KEPT:
                del self._plans[next(iter(self._plans))]
            return plan

    def take_memory(self, shape: tuple[int, ...], plan: Plan) -> Elements:
        """One for latents of that shape, whose margins are zero."""
        with self._lock:
            for number, (kind, memory) in enumerate(self._memories):
                if kind == shape:
                    del self._memories[number]
                    return memory
        return aligned(plan.size, self.packed.element)

    def give_back(self, shape: tuple[int, ...], memory: Elements) -> None:
        """One that nobody reads from any more."""
        with self._lock:
            self._memories = [(shape, memory), *self._memories][:_KEPT]


class KernelSteps:
    """See `dsin.runtime.entropy.hyper_codec.LatentSteps`."""

    def __init__(
        self, network: KernelNetwork, z: Integers, rate: int, shape: tuple[int, int, int],
        kept: Kept | None,
    ) -> None:  # fmt: skip
        self._network = network
        coded = None if kept is None else kept.coded
        self._channels, height, width = shape
        self._plan = network.plan(height, width, coded)
        self._coded, self._kept = step_positions(shape, network.count, coded)
        self._reference = None if kept is None else kept.reference.latent.ravel()
        self._latent = np.empty(shape, np.float32)
        self._memory = network.take_memory(shape, self._plan)
        self._number = 0
        self._plan.inputs(self._memory, len(z))[...] = np.clip(z, *SIGNED).transpose(1, 2, 0)
        packed = network.packed
        jobs, taps = self._plan.hyper_jobs(rate, packed), packed.steps[0].taps
        for phase in self._plan.phases[:2]:
            network.team.share(partial(self._run, phase, jobs, taps))

    def predict(self, number: int) -> tuple[Integers, NDArray[np.uint8]]:
        """Means in 64ths and numbers of tables for the symbols of a step, (n,)."""
        self._number = number
        plan, positions = self._plan, self._coded[number]
        count = positions.shape[1] * self._channels
        means, choice = np.empty(count, np.int32), np.empty(count, np.uint8)

        def choose(span: Span) -> None:
            choose_tables(
                self._memory[plan.means :], self._memory[plan.raws :], (1, plan.per_value, 1),
                positions, span, self._channels, self._network.scale_numbers, means, choice,
            )  # fmt: skip

        self._step(number, choose)
        return means, choice

    def put(self, symbols: Integers, means: Integers) -> None:
        """The symbols of the step that was predicted last, and what is kept there."""
        plan, number = self._plan, self._number
        positions, known = self._coded[number], self._memory[plan.slots[number] :]

        def put(task: int) -> None:
            put_symbols(
                symbols, means, positions, self._span(number, task), self._channels,
                self._latent.ravel(), known, (1, plan.per_position, 1),
            )  # fmt: skip

        self._network.team.share(put)
        self._keep(number)

    def quantise(self, number: int, y: NDArray[np.float32]) -> Part:
        """Instead of both: the symbols of a step that y (latent, h, w) rounds to."""
        plan, positions = self._plan, self._coded[number]
        count = positions.shape[1] * self._channels
        symbols, choice = np.empty(count, np.int32), np.empty(count, np.uint8)

        def quantise(span: Span) -> None:
            quantise_symbols(
                y.ravel(), self._memory[plan.means :], self._memory[plan.raws :],
                (1, plan.per_value, 1), positions, span, self._channels,
                self._network.scale_numbers, symbols, choice, self._latent.ravel(),
                self._memory[plan.slots[number] :], (1, plan.per_position, 1),
            )  # fmt: skip

        self._step(number, quantise)
        self._keep(number)
        return Part(symbols, choice)

    def finish(self) -> NDArray[np.float32]:
        """The latent, once the last step is put."""
        self._network.give_back(self._latent.shape, self._memory)
        return self._latent

    def _step(self, number: int, then: Callable[[Span], None]) -> None:
        """Both phases of a step. Each thread goes on with the symbols at its own positions, which
        need nothing of the others'."""
        taps = self._network.packed.steps[number].taps
        first, rest = self._plan.phases[2 * number + 2 : 2 * number + 4]

        def finish(task: int) -> None:
            self._run(rest, self._plan.jobs, taps, task)
            then(self._span(number, task))

        team = self._network.team
        team.share(lambda task: self._run(first, self._plan.jobs, taps, task))
        team.share(finish)

    def _span(self, number: int, task: int) -> Span:
        """A task's positions of each part in a step."""
        return task_span(self._coded[number].shape[1], task, self._network.team.count)

    def _keep(self, number: int) -> None:
        """What is kept at the place of a step's symbols."""
        if self._reference is not None:
            keep_values(
                self._reference, self._kept[number], self._channels, self._latent.ravel(),
                self._memory[self._plan.slots[number] :], (1, self._plan.per_position, 1),
            )  # fmt: skip

    def _run(
        self, phase: tuple[int, int], jobs: NDArray[np.int64], taps: NDArray[np.float32], task: int
    ) -> None:
        """A task of a phase, as numbered in the plan's."""
        packed, plan = self._network.packed, self._plan
        run_jobs(
            self._memory, jobs[phase[0] : phase[1]], plan.places, plan.targets, plan.runs,
            packed.weights, packed.bias, packed.factor, taps, plan.per_row, packed.ends,
            task, self._network.team.count,
        )  # fmt: skip


def _kind(layer: IntegerLayer) -> tuple[int, bool, int]:
    """Side of the kernel, whether it is by channel, and by how much it enlarges."""
    outputs, inputs, side, _ = layer.weight.shape
    return side, inputs == 1 and layer.groups == outputs > 1, layer.shuffle


def _limits(*channels: tuple[int, Limits]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each input: so many channels with such bounds, one after the other."""
    counts = [count for count, _ in channels]
    low, high = (np.repeat([limits[end] for _, limits in channels], counts) for end in (0, 1))
    return low, high


def _outputs(layer: IntegerLayer) -> tuple[int, Limits]:
    """Channels and bounds."""
    return len(layer.weight) // layer.shuffle**2, (layer.low, layer.high)


def _check_hyper(layers: Sequence[IntegerLayer], inputs: int) -> None:
    if [_kind(layer) for layer in layers] != [(3, False, 1), (1, False, 2)] * 2:
        raise BundleError("the hyper graph has other layers than this version knows: export anew")
    _check_chain(layers, *_limits((inputs, SIGNED)))


def _check_step(layers: Sequence[IntegerLayer], before: IntegerLayer) -> None:
    kinds = [(1, False, 1), (5, True, 1), (1, False, 1), (1, False, 1)]
    same = len({len(layer.weight) for layer in layers[:3]}) == 1
    if [_kind(layer) for layer in layers] != kinds or not same:
        raise BundleError("a step graph has other layers than this version knows: export anew")
    _check_chain(layers, *_limits(_outputs(before), (len(layers[-1].weight) // 2, CONTEXT)))


def _check_chain(
    layers: Sequence[IntegerLayer], low: NDArray[np.int64], high: NDArray[np.int64]
) -> None:
    """Raise BundleError where a layer does not fit the one before, or is not exact in int16."""
    for layer in layers:
        if layer.weight.shape[1] * layer.groups != len(low):
            raise BundleError("a layer of the entropy model has other inputs than the one before")
        if layer.low < _SHORT.min or layer.high > _SHORT.max:
            raise BundleError("a layer of the entropy model has outputs beyond 16 bits")
        layer.check(low, high)
        low, high = _limits(_outputs(layer))
