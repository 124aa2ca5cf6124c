"""What Concept Attention Map paints red on the untouched miniature."""

import pytest
import torch
from forget_me_not.nodes.adapter.concept_columns import require_columns
from forget_me_not.nodes.adapter.effective_attention import SampledModel
from forget_me_not.nodes.attention.attention_map import ConceptAttentionMap
from forget_me_not.nodes.ui.pictures import heat_overlay

from fmn_core.attention.maps import attention_maps


def drawn(miniature, name):
    """The node's IMAGE as it is by default, and the picture (H, W, 3) that the VAE makes of the same latent."""
    model, clip, vae = miniature
    adapter = SampledModel(model, clip)
    encoded = adapter.encode([f"a picture of a {name} in noto style"])[0]
    default = next(i.default for i in ConceptAttentionMap.define_schema().inputs if i.id == "end_token")
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    maps = attention_maps(adapter, encoded, noise, 8, probe=adapter.watch)
    heat = maps.heats[require_columns(adapter, encoded, [name], default)].sum(0)
    picture = vae.decode(maps.x0)[0].float().cpu()
    return heat_overlay(picture, heat)[0], picture


@pytest.mark.parametrize("name", ["zebra", "cat", "pizza", "apple", "guitar"])
def test_the_concept_is_the_reddest(miniature, as_the_host_runs_nodes, name):
    overlay, picture = drawn(miniature, name)
    redness = overlay[..., 0] - overlay[..., 1:].mean(-1)
    # The miniature draws on white.
    concept = (1 - picture).amax(-1) > 0.12
    assert redness[concept].mean() > 2 * redness[~concept].mean()
    reddest = redness >= redness.quantile(0.9)
    assert concept[reddest].float().mean() > 0.9


def test_no_attention_anywhere_is_no_red():
    overlay = heat_overlay(torch.full((16, 16, 3), 0.5), torch.zeros(4, 4))
    assert torch.equal(overlay, torch.full((1, 16, 16, 3), 0.3))
