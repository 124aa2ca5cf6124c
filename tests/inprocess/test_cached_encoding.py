"""Keys of models and cached encodings on the host's own objects."""

import torch
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.host import apply_patch, load, load_miniature

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.model.content_key import model_key, text_key
from fmn_core.model.encoding_cache import CachedEncoding
from fmn_core.model.memory_cache import Cache

OTHERS = ["horse", "dog", "fox", "pizza", "santa claus", "a picture of a horse in watercolor style"]


def key(patcher, clip):
    with torch.inference_mode():
        load(patcher)
        return model_key(ComfyModel(patcher, clip))


def test_a_forget_patch_changes_the_key_of_the_model_and_taking_it_off_restores_it(miniature):
    model, clip, _ = miniature
    adapter = ComfyModel(model, clip)
    settings = ClosedFormSettings(preserve_prompts=OTHERS)
    patch = forget_closed_form(adapter, [make_concept(adapter, "zebra")], settings)
    before = key(model, clip)
    faint, _ = apply_patch(model, patch, 0.02)
    assert key(faint, clip) != before
    assert key(model, clip) == before
    with torch.inference_mode():
        again, clip_again, _ = load_miniature()
    assert key(again, clip_again) == before


def test_the_clip_layer_counts_for_the_text_key(miniature):
    model, clip, _ = miniature
    skipped = clip.clone()
    skipped.clip_layer(-2)
    with torch.inference_mode():
        one, two, again = (text_key(ComfyModel(model, c)) for c in (clip, skipped, clip))
    assert one == again != two


def test_cached_encodings_equal_the_hosts(miniature):
    prompts = [f"a picture of a {thing}" for thing in ("zebra", "horse", "dog", "fox", "cat", "pizza", "tiger")]
    prompts.append(" ".join(["zebra and horse"] * 40))
    with torch.inference_mode():
        adapter = ComfyModel(miniature[0], miniature[1])
        wanted = adapter.encode(prompts)
        cache = Cache()
        for _ in range(2):
            found = CachedEncoding(adapter, cache).encode(prompts)
            assert cache.size() > 0
            for a, b in zip(found, wanted, strict=True):
                assert a.text == b.text and a.tokens == b.tokens and torch.equal(a.context, b.context)
                assert not a.context.is_inference() and (a.pooled is None) == (b.pooled is None)
                assert a.pooled is None or torch.equal(a.pooled, b.pooled)
    assert found[-1].context.shape[0] > 77
