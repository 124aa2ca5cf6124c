"""The losses of training by gradient against their formulas, the preservation, and the masks that weigh them."""

import pytest
import torch
from toy_concepts import ZEBRA

from fmn_core.errors import ForgetError
from fmn_core.training.losses import Preservation, attention_loss, visual_loss, visual_scale
from fmn_core.training.references import References
from fmn_core.training.settings import GradientSettings
from fmn_core.training.trainable import LowRank
from fmn_core.training.trainer import Trainer


def test_both_loss_forms_against_their_formulas():
    g = torch.Generator().manual_seed(0)
    columns = [torch.rand(1, 2, 5, 3, generator=g), torch.rand(1, 2, 9, 3, generator=g)]
    flat = torch.cat([c.flatten() for c in columns]).double()
    assert float(attention_loss(columns, "paper")) == pytest.approx(float((flat**2).sum()), rel=1e-6)
    assert float(attention_loss(columns, "released code")) == pytest.approx(float(flat.norm()), rel=1e-6)


def test_preservation_is_the_relative_movement(model):
    layers = model.trained_layers("keys and values")
    factors = {n: LowRank(m, 2, torch.Generator().manual_seed(0), model.device) for n, m in layers.items()}
    rows = model.encode(["a dog in the park"])[0].context
    assert float(Preservation(model, factors, rows)().detach()) == 0
    for f in factors.values():
        f.up.data.normal_(generator=torch.Generator().manual_seed(5))
    parts = []
    for name, factor in factors.items():
        w = layers[name].weight
        parts.append(((rows @ (factor.up @ factor.down).T).norm() / (rows @ w.T).norm()) ** 2)
    assert float(Preservation(model, factors, rows)()) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)


def test_a_mask_weighs_pixels_of_the_attention(model):
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    seen = {}
    for name, masks in (("masked", mask), ("plain", None)):
        trainer = Trainer(model, [ZEBRA], [References(torch.zeros(1, 4, 4, 4), masks)], GradientSettings())
        with trainer.unet_pass(trainer.draw()) as (_, columns):
            seen[name] = columns
    grid = torch.tensor([0.0, 0, 1, 1]).repeat(4)[None, None, :, None]
    for masked, plain in zip(seen["masked"], seen["plain"]):
        torch.testing.assert_close(masked, plain * grid)


def test_masks_must_be_as_many_as_images():
    with pytest.raises(ForgetError, match="one mask or one for each of 3 images, got 2"):
        References(torch.zeros(3, 4, 4, 4), torch.ones(2, 8, 8))


def test_visual_loss_against_its_formula():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, 3, generator=g), torch.randn(2, 4, 3, 3, generator=g)
    sigma = torch.tensor([0.1, 4.0])
    per_image = [float(((a[i].double() - b[i].double()) ** 2).sum() / 36) for i in range(2)]
    assert float(visual_loss(a, b, sigma, "uniform")) == pytest.approx(sum(per_image) / 2, rel=1e-5)
    weighted = per_image[0] * 1.0 + per_image[1] * (1 / 16) / 5
    assert float(visual_loss(a, b, sigma, "min-SNR")) == pytest.approx(weighted / 2, rel=1e-5)


@pytest.mark.parametrize("weighting", ["uniform", "min-SNR"])
def test_visual_scale_is_the_mean_loss_of_predicting_what_was_kept(weighting):
    g = torch.Generator().manual_seed(0)
    kept, zeroed = torch.randn(3, 4, 2, 2, generator=g), torch.randn(3, 4, 2, 2, generator=g)
    sigmas = torch.tensor([0.1, 0.5, 2.0, 50.0])
    losses = [float(visual_loss(kept, zeroed, s.expand(3), weighting)) for s in sigmas]
    assert visual_scale(kept, zeroed, sigmas, weighting) == pytest.approx(sum(losses) / 4, rel=1e-5)
