"""A step of edge's training asks the host for nothing, so that a CUDA graph can hold it.

Tensors of the device `meta` have no values: whatever would have to know one, or would copy from the
host, fails or shows.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import SMALL
from test_edge_crops import NOBODY, pictures
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dsin.training.edge import model as edge_model
from dsin.training.edge.crops import CropDrawer, PictureBank
from dsin.training.edge.data import Picture, PicturePair, TrainingPictures
from dsin.training.edge.model import EdgeDsin
from dsin.training.edge.objective import EdgeObjective
from dsin.training.presets import EdgePhase, EdgePreset

META = torch.device("meta")


class FromTheHost(TorchDispatchMode):
    """Notes operators that see a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
        if any(t.device != META for t in tensors):
            self.seen.append(str(func))
        return made


@pytest.fixture
def large() -> TrainingPictures:
    """Pictures that MS-SSIM crops can be cut from."""

    def grown(picture: Picture) -> Picture:
        return Picture(picture.name, lambda: picture.read().repeat(12, 0).repeat(12, 1))

    plain = pictures()
    pairs = [PicturePair(*map(grown, pair)) for pair in plain.pairs]
    return TrainingPictures(pairs, [], [])


@pytest.mark.parametrize("distortion", ["mse", "ms_ssim"])
@pytest.mark.parametrize("kind", ["photos", "pairs"])
def test_a_step_stays_on_the_device(
    kind: str, distortion: Any, large: TrainingPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def side_input(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: object) -> tuple[Tensor, ...]:
        return y, y_dec, y.new_zeros((len(y), 1, y.shape[2] // 8, y.shape[3] // 8))

    monkeypatch.setattr(edge_model, "side_input", side_input)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    phase = EdgePhase(
        "joint", batch=2, crop=(192, 192), photo_crop=(192, 192), photo_share=0.5, side_weight=0.8,
        distortion=distortion,
    )  # fmt: skip
    crops = CropDrawer(phase, PictureBank(large, META, NOBODY), NOBODY)
    objective = EdgeObjective(EdgeDsin(EdgePreset(codec=SMALL)), phase).to(META).train()
    with FromTheHost() as host:
        x, y = getattr(crops, kind)()
        loss, _ = objective(x, y)
        loss.backward()
    assert host.seen == []
    assert objective.model.encoder.stem.weight.grad is not None


def test_the_test_above_can_fail() -> None:
    with FromTheHost() as host:
        _ = torch.tensor([1, 2]).to(META)
    assert host.seen
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(1, device=META).sum().item()
