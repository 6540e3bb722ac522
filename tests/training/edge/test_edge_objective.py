"""What edge's training minimises, in figures worked out by hand, and one step of it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dsin.training.edge import objective as edge_objective
from dsin.training.edge import step as edge_step
from dsin.training.edge.crops import Crops
from dsin.training.edge.model import EdgeCoded
from dsin.training.edge.objective import EdgeObjective, Scores
from dsin.training.edge.step import Learner, learning_rate
from dsin.training.presets import EdgeConfig, EdgePhase, EdgePreset

LADDER = EdgePreset(codec=EdgeConfig(rates=3), multipliers=(1e-4, 1e-2))
"""Multipliers 1e-4, 1e-3, 1e-2, whose geometric mean is 1e-3."""
X = torch.full((3, 3, 64, 64), 100.0)


class Plain(nn.Module):
    """In the model's place: codes 2048 bits, x_dec 10 levels too bright, x_hat 4 too dark."""

    preset = LADDER

    def __init__(self) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(10.0))

    def code(self, x: Tensor, rate: Tensor) -> EdgeCoded:
        return EdgeCoded(x + self.error, x.new_zeros(len(x), 1), torch.full((len(x),), 2048.0))

    reconstruct = code

    def side_input(self, x_dec: Tensor, y: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        return y, self.code(y, rate).x_dec

    def fusion(self, x_dec: Tensor, features: Tensor, *rest: Tensor) -> Tensor:
        return x_dec - 14


def objective(side_weight: float = 0.8, **changes: object) -> EdgeObjective:
    phase = EdgePhase("p", side_weight=side_weight, **changes)  # type: ignore[arg-type]
    return EdgeObjective(Plain(), phase)  # type: ignore[arg-type]


@pytest.fixture
def each_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three pictures of a batch are coded at the three rates."""

    def draw(high: int, size: tuple[int, ...], device: object) -> Tensor:
        assert (high, size) == (3, (3,))
        return torch.arange(3)

    monkeypatch.setattr(torch, "randint", draw)


def test_the_loss_of_pictures_alone() -> None:
    """sqrt(1e-3 / m) * (0.5 + m * 100)."""
    scores = Scores(*(torch.tensor([v] * 3) for v in (0.5, 100.0)), None, torch.zeros(3), None)
    loss = objective().loss(scores, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, torch.tensor([1.612762, 0.6, 0.474342]))


def test_the_loss_of_pictures_with_a_side_image() -> None:
    """sqrt(1e-3 / m) * (0.5 + m * (0.2 * 100 + 0.8 * 20))."""
    bpp, d_dec, d_hat = (torch.tensor([v] * 3) for v in (0.5, 100.0, 20.0))
    scores = Scores(bpp, d_dec, d_hat, torch.zeros(3), torch.zeros(3))
    loss = objective().loss(scores, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, torch.tensor([1.592523, 0.536, 0.271956]))


@pytest.mark.usefixtures("each_rate")
def test_a_batch_of_pictures() -> None:
    """2048 bits of 64x64 pixels are 0.5 bits per pixel; 10 levels are a squared error of 100."""
    loss, shown = objective()(X, None)
    assert float(loss.detach()) == pytest.approx((1.612762 + 0.6 + 0.474342) / 3, rel=1e-5)
    torch.testing.assert_close(shown, torch.tensor([float(loss.detach()), 0.5, 28.130804]))


@pytest.mark.usefixtures("each_rate")
def test_a_batch_of_pairs() -> None:
    """x_hat is 4 levels off: a squared error of 16; x_dec counts for a fifth."""
    loss, shown = objective()(X, X)
    expected = (3.162278 * 0.50328 + 0.5328 + 0.316228 * 0.828) / 3
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert shown.tolist() == pytest.approx([float(loss.detach()), 0.5, 28.130804, 36.089603])


@pytest.mark.usefixtures("each_rate")
def test_worse_pictures_cost_more_in_both_phases() -> None:
    """The gradient of x_dec's error, 2 * 10 each time, by hand."""
    for y, share in ((None, 1.0), (X, 0.2)):
        module = objective()
        module(X, y)[0].backward()
        by_x_dec = 20 * share
        # Plain's x_hat follows x_dec: its error is -4.
        by_x_hat = 0.8 * -8 if y is not None else 0.0
        scales = 1e-3**0.5 * (1e-4**0.5 + 1e-3**0.5 + 1e-2**0.5) / 3
        assert module.model.error.grad is not None
        expected = scales * (by_x_dec + by_x_hat)
        assert float(module.model.error.grad) == pytest.approx(expected, rel=1e-4)


def test_structure_counts_as_squared_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_objective, "ms_ssim_of_each", lambda x, y: torch.full((3,), 0.95))
    module = objective(distortion="ms_ssim")
    coded = module.model.code(X, torch.arange(3))
    scores = module.scores(X, coded, X)
    assert scores.d_hat is not None
    torch.testing.assert_close(scores.d_dec, torch.full((3,), 120.0))
    torch.testing.assert_close(scores.d_hat, torch.full((3,), 120.0))


def test_appearance_is_judged_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.dtype] = []

    def error(x: Tensor, picture: Tensor) -> Tensor:
        given.extend((x.dtype, picture.dtype))
        assert not torch.is_autocast_enabled("cpu")
        return (picture - x).mean((1, 2, 3))

    monkeypatch.setattr(edge_objective, "appearance_error_of_each", error)
    module = objective(distortion="appearance")
    coded = module.model.code(X, torch.arange(3))
    coded = coded._replace(x_dec=coded.x_dec.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        scores = module.scores(X, coded, None)
    assert scores.d_dec.tolist() == [10.0] * 3
    assert given == [torch.float32] * 2


def test_validation_is_at_rates_spread_over_all() -> None:
    module = objective()
    shown = {name: float(value) for name, value in module.validate(X[:1], X[:1]).items()}
    mean = (3.162278 * 0.50328 + 0.5328 + 0.316228 * 0.828) / 3
    assert shown == pytest.approx(
        {
            "val_loss": mean,
            **{f"val_bpp_{rate}": 0.5 for rate in range(3)},
            **{f"val_psnr_no_side_{rate}": 28.130804 for rate in range(3)},
            **{f"val_psnr_{rate}": 36.089603 for rate in range(3)},
        },
        rel=1e-5,
    )
    assert "val_psnr_0" not in objective(side_weight=0.0).validate(X[:1], X[:1])


def test_of_eight_rates_the_second_the_fifth_and_the_seventh_are_validated() -> None:
    module = Plain()
    module.preset = EdgePreset(codec=EdgeConfig(rates=8))
    eight = EdgeObjective(module, EdgePhase("p", side_weight=0.8))  # type: ignore[arg-type]
    shown = eight.validate(X[:1], X[:1])
    assert [name for name in shown if "bpp" in name] == ["val_bpp_1", "val_bpp_4", "val_bpp_6"]


def test_bits_are_shared_by_all_pixels_of_a_picture_that_is_not_square() -> None:
    """2048 bits of 32x128 pixels."""
    _, shown = objective()(X.reshape(3, 3, 32, 128), None)
    assert float(shown[1]) == 0.5


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 3e-6), (49, 1.4990e-4), (99, 2.99930e-4), (5000, 1.545e-4), (10_000, 9e-6)],
)
def test_the_learning_rate_rises_and_falls_to_three_percent(step: int, rate: float) -> None:
    phase = EdgePhase("p", steps=10_000, learning_rate=3e-4)
    assert learning_rate(phase, step) == pytest.approx(rate, rel=1e-3)


def test_the_learning_rate_rises_again_without_moments() -> None:
    phase = EdgePhase("p", steps=10_000, learning_rate=3e-4)
    assert learning_rate(phase, 5000, begun=5000) == pytest.approx(1.545e-6, rel=1e-3)
    assert learning_rate(phase, 5099, begun=5000) == pytest.approx(1.500e-4, rel=1e-3)


class Slope(nn.Module):
    """A loss whose gradient is `slope`, whatever the weight."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.slope = slope

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        loss = (self.slope * self.weight).sum()
        return loss, torch.tensor([1.0, 2.0, 3.0] if y is None else [1.0, 2.0, 3.0, 4.0])


def learner_of(module: Slope, **changes: object) -> tuple[Learner, nn.Module]:
    average = copy.deepcopy(module).requires_grad_(False)
    phase = EdgePhase("p", learning_rate=0.1, **changes)  # type: ignore[arg-type]
    draw = {"photos": lambda: Crops(X, None), "pairs": lambda: Crops(X, X)}
    learner = Learner(module, module, average, phase, draw)  # type: ignore[arg-type]
    learner.set_rate(0.1)
    return learner, average


def test_steps_and_their_moving_average() -> None:
    """Adam's first steps go down by the learning rate; the average keeps 3/4 of what it was."""
    module = Slope(2.0)
    learner, average = learner_of(module, average=0.75)
    learner.step("photos")
    learner.start_average()
    assert float(module.weight.detach()) == pytest.approx(0.9)
    assert float(average.weight) == pytest.approx(0.9)
    learner.set_rate(0.2)
    learner.step("photos")
    assert float(module.weight.detach()) == pytest.approx(0.7)
    assert float(average.weight) == pytest.approx(0.75 * 0.9 + 0.25 * 0.7)


def test_figures_are_added_up_by_kind() -> None:
    learner, _ = learner_of(Slope(1.0))
    for kind in ("photos", "photos", "pairs"):
        learner.step(kind)
    assert learner.sums["photos"].tolist() == [2, 4, 6, 0]
    assert learner.sums["pairs"].tolist() == [1, 2, 3, 4]


def test_gradients_are_clipped_to_a_norm_of_one() -> None:
    """Seen in Adam's first moment, a tenth of the gradient."""
    for slope, moment in ((0.5, 0.05), (70.0, 0.1)):
        module = Slope(slope)
        learner, _ = learner_of(module)
        learner.step("photos")
        state = learner.optimiser.state[module.weight]
        assert float(state["exp_avg"]) == pytest.approx(moment, rel=1e-4)


def test_moments_survive_a_change_of_the_optimiser() -> None:
    learner, _ = learner_of(Slope(2.0))
    learner.step("photos")
    other, _ = learner_of(Slope(2.0))
    other.load_optimiser(learner.optimiser.state_dict()["state"])
    (state,) = other.optimiser.state.values()
    assert (float(state["step"]), float(state["exp_avg"])) == (1, pytest.approx(0.1))
    assert other.optimiser.param_groups[0]["lr"] == 0.1


class FakeGraph:
    """Records what was asked of a CUDA graph; replaying does the step."""

    def __init__(self, seen: SimpleNamespace) -> None:
        self.seen = seen

    def replay(self) -> None:
        self.seen.log.append("replay")
        self.seen.queued += 0.05


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """torch.cuda, as far as capturing goes, with a log of steps; `refuses` fails a capture. By the
    clock a capture takes 2 s, a replay 50 ms, and the eager steps 8, 7 ... 1 times 50 ms."""
    seen = SimpleNamespace(log=[], refuses=False, now=5.0, queued=0.0)
    eager = iter([0.05 * n for n in range(8, 0, -1)])

    def synchronize() -> None:
        """What was asked of the device takes its time when it is waited for."""
        seen.now, seen.queued = seen.now + seen.queued, 0.0

    def step(kind: str) -> None:
        seen.log.append(kind)
        seen.queued += next(eager, 0.0)

    class Capture:
        def __init__(self, graph: FakeGraph, stream: object) -> None: ...

        def __enter__(self) -> None:
            seen.log.append("capture")
            seen.now += 2.0

        def __exit__(self, kind: object, *_: object) -> None:
            if kind is None and seen.refuses:
                raise RuntimeError("operation not permitted when stream is capturing\nCUDA")

    cuda = edge_step.torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", lambda: FakeGraph(seen))
    monkeypatch.setattr(cuda, "graph", Capture)
    monkeypatch.setattr(cuda, "current_stream", lambda: None)
    monkeypatch.setattr(cuda, "synchronize", synchronize)
    clock = SimpleNamespace(perf_counter=lambda: seen.now)
    monkeypatch.setattr(edge_step, "time", clock)
    monkeypatch.setattr(edge_step, "_renew_generator", lambda: seen.log.append("renew"))
    seen.learner = SimpleNamespace(
        step=step, optimiser=SimpleNamespace(zero_grad=lambda set_to_none: None)
    )
    return seen


def test_each_kind_of_step_is_captured_after_some_eager_ones(no_gpu: SimpleNamespace) -> None:
    said: list[str] = []
    stepper = edge_step.GraphStepper(no_gpu.learner, said.append)
    assert stepper.mode == "eager"
    for _ in range(10):
        stepper.step("photos")
    assert no_gpu.log == ["photos"] * 8 + ["capture", "photos", "replay", "replay"]
    assert stepper.mode == "graph"
    stepper.step("pairs")
    assert no_gpu.log[-1] == "pairs"
    assert said == [
        "a step on photos takes 50.0 ms as a CUDA graph, captured in 2.0 s, and 250.0 ms without"
    ]


def test_a_capture_that_fails_is_said_and_steps_go_on(no_gpu: SimpleNamespace) -> None:
    said: list[str] = []
    no_gpu.refuses = True
    stepper = edge_step.GraphStepper(no_gpu.learner, said.append)
    for _ in range(10):
        stepper.step("photos")
    assert no_gpu.log == ["photos"] * 8 + ["capture", "photos", "renew", "photos", "photos"]
    assert stepper.mode == "eager"
    assert said == [
        "a step on photos cannot be captured, and runs without a graph: "
        "operation not permitted when stream is capturing"
    ]
