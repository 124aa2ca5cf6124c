"""Zero Concept Attention in models in which text and picture attend to one another, on random models of the host's classes."""

import pytest
import tiny_flux
import tiny_transformers
import torch
from forget_me_not.nodes.attention.zero_attention import ZeroConceptAttention
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt
from inprocess.sampling import sample
from model_state import assert_untouched, state

from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

PROMPT, OTHER = "a photo of a house", "a photo of a table"
# Rows of "house" in PROMPT: T5 has no start token but two tokens for "a"; CLIP has one, and its 77 rows stand before T5's.
T5_ROW, CLIP_ROW, CLIP_ROWS = 6, 5, 77
ROWS = {"FLUX.1": [T5_ROW], "Chroma": [T5_ROW], "SD 3": [CLIP_ROW, CLIP_ROWS + T5_ROW]}
INPUTS = {
    "phrase": "house", "strength": 1.0, "end_token": "none", "layers": "all", "start_percent": 0.0, "end_percent": 1.0,
    "renormalise": False,
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(ROWS))
def model(request):
    """Name, MODEL and CLIP."""
    made = tiny_flux.flux(128, 64) if request.param == "FLUX.1" else tiny_transformers.tiny(request.param)[:2]
    return request.param, *made


def zeroed(model, clip, **changes):
    return ZeroConceptAttention.execute(model, clip, **{**INPUTS, **changes}).args[0]


def encode(clip, text):
    return EncodePrompt.execute(text, clip).args[0]


def drawn(model, clip, text, size=(8, 8)):
    return sample(model, encode(clip, text), encode(clip, OTHER), size=size, channels=16)


@pytest.fixture
def reference(monkeypatch):
    """Lets the host's joint attention run on whole probabilities, from which it takes those of pixels for some columns.

    Parameters
    ----------
    columns
        The columns, in the layers whose numbers are in `layers`.
    texts
        Numbers of text rows of the positive and the negative prompt; columns are of the positive one alone.
    """

    def use(columns, strength, layers, renormalise=False, mask=None, calls=4):
        import comfy.ldm.flux.math
        import comfy.ldm.modules.diffusionmodules.mmdit

        count = [0]

        def attention(q, k, v, heads, *args, skip_reshape=False, transformer_options=None, **kwargs):
            if not skip_reshape:
                q, k, v = (x.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            a = torch.softmax(q.double() @ k.double().mT / q.shape[-1] ** 0.5, -1)
            pixels = 16
            if count[0] % calls in layers:
                for row, conditional in enumerate(transformer_options["cond_or_uncond"]):
                    if conditional == 0:
                        weight = (
                            torch.full((pixels,), strength, dtype=a.dtype) if mask is None else strength * mask.double()
                        )
                        part = a[row, :, -pixels:]
                        scaled = part.clone()
                        scaled[..., columns] *= 1 - weight[:, None]
                        a[row, :, -pixels:] = scaled / scaled.sum(-1, keepdim=True) if renormalise else scaled
            count[0] += 1
            return (a @ v.double()).to(v.dtype).transpose(1, 2).flatten(2)

        monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", attention)
        monkeypatch.setattr(comfy.ldm.modules.diffusionmodules.mmdit, "optimized_attention", attention)

    return use


def layers_of(name):
    return 2 if name == "SD 3" else 4


@pytest.mark.parametrize("renormalise", [False, True])
def test_pixels_take_nothing_from_the_phrase(model, reference, renormalise):
    name, patcher, clip = model
    before, plain = state(patcher, clip), drawn(patcher, clip, PROMPT)
    ours = drawn(zeroed(patcher, clip, strength=0.9, renormalise=renormalise), clip, PROMPT)
    assert_untouched(patcher, clip, before)
    reference(ROWS[name], 0.9, range(9), renormalise, calls=layers_of(name))
    theirs = drawn(patcher, clip, PROMPT)
    torch.testing.assert_close(ours, theirs, atol=3e-4 * float(theirs.abs().max()), rtol=0)
    assert (ours - plain).abs().max() > 20 * (ours - theirs).abs().max()


def test_some_layers_and_a_mask(model, reference):
    name, patcher, clip = model
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    plain = drawn(patcher, clip, PROMPT)
    ours = drawn(zeroed(patcher, clip, layers="1", mask=mask), clip, PROMPT)
    right = torch.tensor([0.0, 0, 1, 1]).repeat(4)
    reference(ROWS[name], 1.0, [1], mask=right, calls=layers_of(name))
    theirs = drawn(patcher, clip, PROMPT)
    torch.testing.assert_close(ours, theirs, atol=3e-4 * float(theirs.abs().max()), rtol=0)
    assert (ours - plain).abs().max() > 20 * (ours - theirs).abs().max()


def test_prompts_without_the_phrase_are_bit_identical(model):
    _, patcher, clip = model
    assert torch.equal(drawn(zeroed(patcher, clip), clip, OTHER), drawn(patcher, clip, OTHER))


def test_prompts_of_other_nodes_are_listed(model):
    _, patcher, clip = model
    [[context, options]] = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT + " and a table"))
    stock, negative = [[context, options]], encode(clip, "")
    with pytest.raises(ForgetError, match="only some|none"):
        sample(zeroed(patcher, clip), stock, negative, size=(8, 8), channels=16)
    listed = sample(zeroed(patcher, clip, prompts=PROMPT + " and a table"), stock, negative, size=(8, 8), channels=16)
    ours = sample(zeroed(patcher, clip), encode(clip, PROMPT + " and a table"), negative, size=(8, 8), channels=16)
    assert torch.equal(listed, ours)


def test_the_attention_of_another_node_is_used(model):
    _, patcher, clip = model
    other, calls = patcher.clone(), []

    def override(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    other.model_options["transformer_options"]["optimized_attention_override"] = override
    torch.testing.assert_close(
        drawn(zeroed(other, clip), clip, PROMPT), drawn(zeroed(patcher, clip), clip, PROMPT), atol=0, rtol=0
    )
    assert calls


def test_refused_before_anything_is_encoded(monkeypatch):
    patcher, clip, _ = tiny_transformers.tiny("Wan")
    monkeypatch.setattr(clip, "tokenize", None)
    with pytest.raises(ForgetError, match=r"FLUX\.1, Chroma, SD 3.*got Wan.*Forget Concept"):
        zeroed(patcher, clip)


@pytest.mark.parametrize("layers", ["down", "9"])
def test_layers_that_the_model_has_not(model, layers):
    _, patcher, clip = model
    with pytest.raises(ForgetError, match="layer"):
        zeroed(patcher, clip, layers=layers)
