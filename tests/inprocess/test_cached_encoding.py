"""Keys of models and cached encodings on the host's own objects."""

import sys
from types import SimpleNamespace

import pytest
import torch

from mini_sd import comfy_host

OTHERS = ["horse", "dog", "fox", "pizza", "santa claus", "a picture of a horse in watercolor style"]


@pytest.fixture(scope="module")
def pack():
    comfy_host.load_pack()
    return SimpleNamespace(
        **{n: sys.modules[f"forget_me_not.nodes.{n}"] for n in ("host", "comfy_model")},
        **{
            n: sys.modules[f"forget_me_not.fmn_core.{n}"]
            for n in ("cache", "cached_encoding", "closed_form", "concept", "content_key")
        },
    )


def key(pack, patcher, clip):
    with torch.inference_mode():
        pack.host.load(patcher)
        return pack.content_key.model_key(pack.comfy_model.ComfyModel(patcher, clip))


def test_a_forget_patch_changes_the_key_of_the_model_and_taking_it_off_restores_it(pack, miniature):
    model, clip, _ = miniature
    adapter = pack.comfy_model.ComfyModel(model, clip)
    settings = pack.closed_form.ClosedFormSettings(preserve_prompts=OTHERS)
    patch = pack.closed_form.forget_closed_form(adapter, [pack.concept.make_concept(adapter, "zebra")], settings)
    before = key(pack, model, clip)
    faint, _ = pack.host.apply_patch(model, patch, 0.02)
    assert key(pack, faint, clip) != before
    assert key(pack, model, clip) == before
    with torch.inference_mode():
        again, clip_again, _ = pack.host.load_miniature()
    assert key(pack, again, clip_again) == before


def test_the_clip_layer_counts_for_the_text_key(pack, miniature):
    model, clip, _ = miniature
    skipped = clip.clone()
    skipped.clip_layer(-2)
    with torch.inference_mode():
        one, two, again = (
            pack.content_key.text_key(pack.comfy_model.ComfyModel(model, c)) for c in (clip, skipped, clip)
        )
    assert one == again != two


def test_cached_encodings_equal_the_hosts(pack, miniature):
    prompts = [f"a picture of a {thing}" for thing in ("zebra", "horse", "dog", "fox", "cat", "pizza", "tiger")]
    prompts.append(" ".join(["zebra and horse"] * 40))
    with torch.inference_mode():
        adapter = pack.comfy_model.ComfyModel(miniature[0], miniature[1])
        wanted = adapter.encode(prompts)
        cache = pack.cache.Cache()
        for _ in range(2):
            found = pack.cached_encoding.CachedEncoding(adapter, cache).encode(prompts)
            assert cache.size() > 0
            for a, b in zip(found, wanted, strict=True):
                assert a.text == b.text and a.tokens == b.tokens and torch.equal(a.context, b.context)
                assert not a.context.is_inference() and (a.pooled is None) == (b.pooled is None)
                assert a.pooled is None or torch.equal(a.pooled, b.pooled)
    assert found[-1].context.shape[0] > 77
