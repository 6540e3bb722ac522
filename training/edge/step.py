"""One step of training the `edge` model: crops, loss, gradients, optimiser, moving average.

All of it runs on the device without waiting for the host, so that on a GPU a whole step can be
captured as a CUDA graph and played again by one call.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dsin.training.edge.crops import Crops
from dsin.training.edge.objective import SHOWN
from dsin.training.presets import EdgePhase

Kind = Literal["photos", "pairs"]
"""What a batch is of."""
KINDS: tuple[Kind, ...] = ("photos", "pairs")
WARM_UP = 100
"""Steps over which the learning rate rises."""
LEAST_RATE = 0.03
"""Share of the peak that the learning rate falls to."""
GRADIENT_CLIP = 1.0
EAGER_STEPS = 8
"""Steps of each kind that run one operator at a time before they are captured: they choose
kernels, make the optimiser's state and are timed."""


def learning_rate(phase: EdgePhase, step: int, begun: int = 0) -> float:
    """A short rise from step `begun` on, and a cosine over all steps."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / phase.steps)))
    rise = min(1.0, (step - begun + 1) / WARM_UP)
    return phase.learning_rate * rise * (LEAST_RATE + (1 - LEAST_RATE) * fall)


class Learner:
    """Weights, their moving average and the optimiser of one phase.

    `objective` gives (loss, figures) of x and y; `average` is a copy of its model, whose parameters
    follow those of `model` with the decay `phase.average`, from the end of the first step on.
    """

    def __init__(
        self, objective: nn.Module, model: nn.Module, average: nn.Module, phase: EdgePhase,
        draw: dict[Kind, Callable[[], Crops]],
    ) -> None:  # fmt: skip
        self._objective, self._draw, self._phase = objective, draw, phase
        both = zip(model.parameters(), average.parameters(), strict=True)
        trained = [(mine, kept) for mine, kept in both if mine.requires_grad]
        self._trained: list[Tensor] = [mine for mine, _ in trained]
        self._kept: list[Tensor] = [kept for _, kept in trained]
        device = self._trained[0].device
        on_gpu = device.type == "cuda"
        # On a GPU the rate is a number of the device, so that a captured step sees it change.
        self._rate = torch.zeros((), device=device) if on_gpu else None
        rate = phase.learning_rate if self._rate is None else self._rate
        self.optimiser = torch.optim.Adam(self._trained, lr=rate, fused=True, capturable=on_gpu)
        self.sums = {kind: torch.zeros(len(SHOWN), device=device) for kind in KINDS}
        """Figures of the batches of each kind, added up until somebody takes them."""

    def set_rate(self, value: float) -> None:
        """The learning rate of the steps that follow."""
        if self._rate is not None:
            self._rate.fill_(value)
            return
        for group in self.optimiser.param_groups:
            group["lr"] = value

    @torch.no_grad()
    def start_average(self) -> None:
        """The average is what the weights are now."""
        torch._foreach_copy_(self._kept, self._trained)

    def step(self, kind: Kind) -> None:
        """Once, on a batch of that kind."""
        self.optimiser.zero_grad(set_to_none=True)
        crops = self._draw[kind]()
        loss, shown = self._objective(crops.x, crops.y)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, GRADIENT_CLIP, foreach=True)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._kept, self._trained, 1 - self._phase.average)
            self.sums[kind][: len(shown)] += shown

    def load_optimiser(self, state: dict[Any, Any]) -> None:
        """Go on with the moments of an earlier run, on whatever device that was."""
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        if self._rate is not None:
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate


class EagerStepper:
    """One operator after the other: CPUs, and several GPUs."""

    mode = "eager"

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def step(self, kind: Kind) -> None:
        self._learner.step(kind)


class GraphStepper:
    """On one GPU: after EAGER_STEPS of a kind its step is captured and from then on replayed.

    If capturing fails, `say` is told and steps go on eagerly. Everything, replays too, runs in the
    stream that is current.
    """

    def __init__(self, learner: Learner, say: Callable[[str], None]) -> None:
        self._learner, self._say = learner, say
        self._graphs: dict[Kind, torch.cuda.CUDAGraph] = {}
        self._seen: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
        self._failed = False

    @property
    def mode(self) -> str:
        """How most steps run: graph or eager."""
        return "graph" if self._graphs and not self._failed else "eager"

    def step(self, kind: Kind) -> None:
        if kind in self._graphs:
            self._graphs[kind].replay()
        elif self._failed:
            self._learner.step(kind)
        elif len(self._seen[kind]) < EAGER_STEPS:
            self._timed(kind, lambda: self._learner.step(kind))
        else:
            self._capture(kind)

    def _capture(self, kind: Kind) -> None:
        """Record a step, then do it, by the graph."""
        self._learner.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        start = time.perf_counter()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self._learner.step(kind)
        except RuntimeError as error:
            self._failed = True
            reason = str(error).splitlines()[0]
            self._say(f"a step on {kind} cannot be captured, and runs without a graph: {reason}")
            _renew_generator()
            self._learner.step(kind)
            return
        took = time.perf_counter() - start
        self._graphs[kind] = graph
        eager = sorted(self._seen[kind])[EAGER_STEPS // 2]
        replayed = self._timed(kind, graph.replay)
        self._say(
            f"a step on {kind} takes {1e3 * replayed:.1f} ms as a CUDA graph, captured in "
            f"{took:.1f} s, and {1e3 * eager:.1f} ms without"
        )

    def _timed(self, kind: Kind, work: Callable[[], None]) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took = time.perf_counter() - start
        self._seen[kind].append(took)
        return took


def _renew_generator() -> None:
    """A capture that failed leaves the device's generator of random numbers believing that it goes
    on: give it a state that knows of none, with other numbers than before."""
    fresh = torch.Generator(device="cuda")
    fresh.manual_seed(torch.initial_seed() % 2**62 + 1)
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(fresh.graphsafe_get_state())
