"""A larger `edge` model begins with what a smaller one learned."""

from dataclasses import replace

import pytest
import torch
from conftest import SMALL

from dsin.runtime.errors import CheckpointError
from dsin.training.edge.growth import grown
from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import EdgePreset


def picture() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.nn.functional.interpolate(255 * torch.rand(1, 3, 16, 24), size=(128, 192))


def test_more_blocks_alone_change_nothing(edge_model: EdgeDsin) -> None:
    more = replace(SMALL, encoder_blocks=(2, 3), decoder_blocks=(2, 2), fusion_blocks=6)
    larger = grown(edge_model, EdgePreset(codec=more)).eval()
    x, rate = picture(), torch.tensor([1])
    old, new = edge_model.code(x, rate), larger.code(x, rate)
    torch.testing.assert_close(new.x_dec, old.x_dec)
    torch.testing.assert_close(new.bits, old.bits)


def test_new_latent_channels_leave_the_old_ones_as_they_were(edge_model: EdgeDsin) -> None:
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, latent=12, coarse=32))).eval()
    x, rate = picture(), torch.tensor([2])
    y = edge_model.encoder(x, rate)
    torch.testing.assert_close(larger.encoder(x, rate)[:, :8], y)
    # Nothing of the new channels reaches z or the steps yet.
    z = edge_model.entropy.encoder(y)
    torch.testing.assert_close(larger.entropy.encoder(larger.encoder(x, rate)), z)


def test_the_last_of_two_steps_begins_as_the_last_of_four(edge_model: EdgeDsin) -> None:
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, entropy_steps=2)))
    for new, old in ((0, 0), (1, 3)):
        mine, theirs = larger.entropy.steps[new].state_dict(), edge_model.entropy.steps[old]
        for name, values in theirs.state_dict().items():
            assert torch.equal(mine[name], values), name


def test_means_and_scales_keep_to_their_halves(edge_model: EdgeDsin) -> None:
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, latent=12)))
    old = edge_model.entropy.steps[1].get_parameter("out.weight")
    new = larger.entropy.steps[1].get_parameter("out.weight")
    assert old.any()
    assert torch.equal(new[:8], old[:8])
    assert torch.equal(new[12:20], old[8:])


def test_steps_do_not_see_new_features_of_the_context(edge_model: EdgeDsin) -> None:
    """They see that of z first, behind it what is decoded."""
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, latent=12, context=10)))
    for old_step, new_step in zip(edge_model.entropy.steps, larger.entropy.steps, strict=True):
        old, new = (step.get_parameter("stem.weight") for step in (old_step, new_step))
        assert torch.equal(new[:, :8], old[:, :8])
        assert torch.equal(new[:, 10:18], old[:, 8:])
        assert not new[:, 8:10].any()
        assert not new[:, 18:].any()


def test_a_pointwise_last_layer_is_the_middle_of_the_old_one(edge_model: EdgeDsin) -> None:
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, out_kernel=1)))
    middle = edge_model.decoder.out.weight[:, :, 1:2, 1:2]
    assert torch.equal(larger.decoder.out.weight, middle)


def test_a_fusion_of_other_sizes_starts_anew(edge_model: EdgeDsin) -> None:
    larger = grown(edge_model, EdgePreset(codec=replace(SMALL, fusion=8)))
    assert not larger.fusion.out.weight.any()
    kept = grown(edge_model, EdgePreset(codec=replace(SMALL, entropy_steps=2)))
    assert torch.equal(kept.fusion.out.weight, edge_model.fusion.out.weight)


def test_other_rates_are_refused(edge_model: EdgeDsin) -> None:
    with pytest.raises(CheckpointError, match="weights of 3 rates cannot grow into a preset of 4"):
        grown(edge_model, EdgePreset(codec=replace(SMALL, rates=4)))


def test_a_smaller_model_is_refused(edge_model: EdgeDsin) -> None:
    smaller = EdgePreset(codec=replace(SMALL, latent=4))
    with pytest.raises(CheckpointError, match=r"encoder\.log_steps is \(3, 8\)"):
        grown(edge_model, smaller)
