"""Concept Attention Map sees the attention that sampling would use, whatever other nodes do to it."""

import pytest
import torch
from forget_me_not.nodes.adapter.effective_attention import SampledModel
from forget_me_not.nodes.attention.zero_attention import ZeroConceptAttention
from forget_me_not.nodes.host import load

from fmn_core.attention.hooks import attention_probe

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

PROMPT = "a picture of a zebra in noto style"


@pytest.fixture
def seen(miniature):
    """Attention of every layer in one UNet call: by the node's way, or by the probe beside the model's own attention."""
    model, clip, _ = miniature

    def run(model=model, effective=True):
        adapter = SampledModel(model, clip)
        load(adapter.patcher)
        found = {}
        probe = attention_probe
        watch = adapter.watch if effective else lambda receive: probe(adapter.cross_attention(), receive)
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 14
        with watch(lambda layer, a: found.update({layer.name: a})):
            adapter.denoise(noise, adapter.sigmas()[-1:], adapter.encode([PROMPT]))
        return found

    return run


@pytest.fixture
def zeroed(miniature):
    def run(**changes):
        inputs = {
            "phrase": "zebra", "strength": 1.0, "end_token": "none", "layers": "all", "start_percent": 0.0, "end_percent": 1.0,
            "renormalise": False,
        }  # fmt: skip
        node = ZeroConceptAttention
        return node.execute(model=miniature[0], clip=miniature[1], **(inputs | changes)).args[0]

    return run


def test_a_plain_model_shows_what_the_probe_sees(seen):
    ours, probed = seen(), seen(effective=False)
    assert list(ours) == list(probed)
    for name, a in ours.items():
        assert torch.allclose(a, probed[name], atol=1e-5)
        assert torch.allclose(a.sum(-1), torch.ones(1), atol=1e-4)


def test_zero_attention_is_seen(seen, zeroed):
    plain, half, none = seen(), seen(zeroed(strength=0.5)), seen(zeroed())
    first, column = next(iter(plain)), 5
    assert torch.allclose(half[first][..., column], plain[first][..., column] / 2, atol=1e-6)
    others = [i for i in range(77) if i != column]
    assert torch.allclose(half[first][..., others], plain[first][..., others], atol=1e-6)
    assert all(not a[..., column].any() for a in none.values())
    renormalised = seen(zeroed(renormalise=True))
    assert all(torch.allclose(a.sum(-1), torch.ones(1), atol=1e-4) for a in renormalised.values())


def test_zero_attention_counts_only_in_its_layers_its_steps_and_its_mask(seen, zeroed):
    first, second, *_ = seen()
    chosen = seen(zeroed(layers="1"))
    assert chosen[first][..., 5].any() and not chosen[second][..., 5].any()
    assert all(a[..., 5].any() for a in seen(zeroed(start_percent=0.5)).values())
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    a = seen(zeroed(mask=left))[first][0, 0, :, 5].reshape(16, 16)
    assert not a[:, :8].any() and a[:, 8:].all()


def test_the_model_is_left_as_it_was(seen, zeroed):
    model = zeroed()
    before = {kind: {key: list(w) for key, w in group.items()} for kind, group in model.wrappers.items()}
    seen(model)
    assert {kind: {key: list(w) for key, w in group.items()} for kind, group in model.wrappers.items()} == before
