"""The adapter for diffusers pipelines against the host's adapter on the same weights, and on its own."""

import pytest
import tiny_pipelines
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel

from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.patch.file import save_patch
from fmn_core.patch.patch import fingerprint, kohya_name
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References

# No "!": where it is the padding token, transformers takes it for that also within words, and the host does not.
PROMPTS = ["a picture of a zebra in noto style", "", "a dog, a cat and a Zebra's foal.", "house " * 100]
# Templates in which both hosts see the phrase as words of their own.
TEMPLATES = "a picture of {}\na {} in noto style\n{}\na drawing of a {} on a table"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    from diffusers import StableDiffusionPipeline

    from mini_sd.export_diffusers import build_pipeline

    folder = tmp_path_factory.mktemp("miniature")
    build_pipeline().save_pretrained(folder)
    exported = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    return {"miniature": exported, "SDXL": tiny_pipelines.sdxl(), "SD2": tiny_pipelines.sd2()}


@pytest.fixture(scope="module")
def pairs(pipelines, miniature):
    """Both adapters over the same weights: ours, the host's."""

    def twin(name, kind, prediction):
        pipeline = pipelines[name]
        model = tiny_pipelines.host_model(host, pipeline, kind, prediction)
        return ComfyModel(model, tiny_pipelines.host_clip(pipeline, name))

    with torch.inference_mode():
        hosts = {
            "miniature": ComfyModel(*miniature[:2]),
            "SDXL": twin("SDXL", "SDXL", "EPS"),
            "SD2": twin("SD2", "BaseModel", "V_PREDICTION"),
        }
    found = {name: (DiffusersModel(p), hosts[name]) for name, p in pipelines.items()}
    return found | {"vae": miniature[2]}


KINDS = pytest.mark.parametrize("kind", ["miniature", "SDXL", "SD2"])


def words_of(model, count=2):
    g = torch.Generator().manual_seed(3)
    return {name: torch.randn(count, t.shape[1], generator=g) for name, t in model.token_embeddings().items()}


def assert_same_patch(ours, theirs, tolerance):
    assert ours.factors.keys() == theirs.factors.keys()
    for name, factors in ours.factors.items():
        a, b = factors.delta().double(), theirs.factors[name].delta().double()
        assert b.norm() > 0
        assert (a - b).norm() <= tolerance * b.norm(), name
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 1 - tolerance


def snapshot(pipeline):
    parts = [p for p in pipeline.components.values() if isinstance(p, torch.nn.Module)]
    return [(p, {k: v.clone() for k, v in p.state_dict().items()}) for p in parts]


def assert_untouched(before):
    for part, state in before:
        after = part.state_dict()
        assert state.keys() == after.keys() and all(torch.equal(state[k], after[k]) for k in state)
        # On text encoders transformers leaves hooks of its own, which collect hidden states.
        watched = [part.get_input_embeddings()] if hasattr(part, "get_input_embeddings") else part.modules()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched)


@KINDS
def test_prompts_are_encoded_as_the_host_does(pairs, kind):
    ours, theirs = pairs[kind]
    assert ours.vocabulary == theirs.vocabulary
    assert ours.phrase_tokens("santa claus") == theirs.phrase_tokens("santa claus")
    for a, b in zip(ours.encode(PROMPTS), theirs.encode(PROMPTS), strict=True):
        assert a.text == b.text and a.tokens == b.tokens
        torch.testing.assert_close(a.context, b.context, atol=1e-5, rtol=1e-5)
        assert (a.pooled is None) == (kind != "SDXL")
        if a.pooled is not None:
            torch.testing.assert_close(a.pooled, b.pooled, atol=1e-5, rtol=1e-5)


@KINDS
def test_words_are_put_where_the_host_puts_them(pairs, kind):
    ours, theirs = pairs[kind]
    word = words_of(ours)
    prompts, words = ["a <concept> and a <concept> here", "a dog", "<concept>"], [word, None, word]
    for a, b in zip(ours.encode(prompts, words), theirs.encode(prompts, words), strict=True):
        assert a.tokens == b.tokens
        torch.testing.assert_close(a.context, b.context, atol=1e-5, rtol=1e-5)


def test_token_embeddings_are_the_hosts(pairs):
    for kind in ("miniature", "SDXL", "SD2"):
        ours, theirs = (m.token_embeddings() for m in pairs[kind])
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@KINDS
def test_layers_have_the_hosts_names_order_and_weights(pairs, kind):
    ours, theirs = pairs[kind]
    names = [layer.name for layer in ours.cross_attention()]
    assert names == [layer.name for layer in theirs.cross_attention()]
    assert [m.heads for m in ours.cross_attention()] == [m.heads for m in theirs.cross_attention()]
    assert ours.linear_layers().keys() >= {f"{n}.{p}" for n in names for p in ("to_q", "to_k", "to_v", "to_out.0")}
    assert ours.linear_layers().keys() == theirs.linear_layers().keys()
    assert len(ours.blocks()) == len(theirs.blocks())
    assert all(torch.equal(ours.weights([(n, "to_k")])[0], theirs.weights([(n, "to_k")])[0]) for n in names)
    assert fingerprint(ours) == fingerprint(theirs)


@KINDS
def test_noise_levels_and_predictions_are_the_hosts(pairs, kind):
    ours, theirs = pairs[kind]
    sigmas = ours.sigmas()
    torch.testing.assert_close(sigmas, theirs.sigmas(), atol=0, rtol=1e-6)
    assert torch.isfinite(sigmas).all() and (sigmas.diff() > 0).all()
    g = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.05, 2.5, float(sigmas[-1])])
    x = torch.randn(3, *ours.latent_shape(), generator=g) * (1 + sigma**2).sqrt().view(3, 1, 1, 1)
    prompts = ours.encode(PROMPTS[:3])
    with torch.no_grad():
        torch.testing.assert_close(
            ours.denoise(x, sigma, prompts), theirs.denoise(x, sigma, prompts), atol=2e-4, rtol=1e-4
        )


def test_native_size_is_that_of_the_host(pairs):
    assert pairs["miniature"][0].latent_shape() == pairs["miniature"][1].latent_shape() == (4, 16, 16)


def test_images_are_encoded_as_the_host_does(pairs):
    ours, theirs = pairs["miniature"]
    images = torch.rand(2, 67, 64, 3, generator=torch.Generator().manual_seed(0))
    expected = theirs.encode_images(images[:, :64], pairs["vae"])
    assert expected.shape == (2, 4, 8, 8)
    torch.testing.assert_close(ours.encode_images(images[:, :64]), expected, atol=1e-2, rtol=1e-2)
    assert ours.encode_images(images).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("train", ["values", "keys and values"])
def test_closed_form_gives_the_same_patch(pairs, train):
    settings = ClosedFormSettings(train=train, preserve_prompts=["horse", "a house in fluent style"])
    patches = []
    for model in pairs["miniature"]:
        concept = make_concept(model, "zebra")
        patches.append(forget_closed_form(model, [concept], settings))
    assert_same_patch(*patches, tolerance=1e-3)


@pytest.mark.parametrize("train", ["keys and values", "whole UNet"])
def test_resteering_gives_the_same_patch(pairs, train):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    settings = GradientSettings(steps=3, train=train, rank=4, seed=5, learning_rate=0.1, optimiser="SGD")
    patches = []
    for model in pairs["miniature"]:
        with model.ready_for_gradients():
            concept = make_concept(model, "zebra")
            patches.append(forget_by_gradient(model, [concept], [References(latents)], settings))
    # No attention depends on what comes after the last keys.
    moved = [k for k, f in patches[1].factors.items() if f.delta().abs().max() > 0]
    assert len(moved) >= len(patches[1].factors) - 8 and len(moved) >= 31
    for patch in patches:
        patch.factors = {k: patch.factors[k] for k in moved}
    assert_same_patch(*patches, tolerance=1e-2)


@KINDS
def test_both_methods_run_and_leave_the_pipeline_alone(pipelines, kind):
    pipeline = pipelines[kind]
    before, modules = snapshot(pipeline), {n.replace(".", "_") for n, _ in pipeline.unet.named_modules()}
    wanted = [p.requires_grad for p in pipeline.unet.parameters()]
    with torch.inference_mode():
        model = DiffusersModel(pipeline)
        concept = make_concept(model, "zebra")
        with model.ready_for_gradients():
            assert not any(p.requires_grad for p in pipeline.unet.parameters())
            closed = forget_closed_form(model, [concept])
            steps = GradientSettings(steps=2, rank=2)
            latents = torch.zeros(1, *model.latent_shape())
            steered = forget_by_gradient(model, [concept], [References(latents)], steps)
    closed.factors.pop("lora_unet_label_emb_0_0", None)  # the layer that reads the pooled embedding
    for patch, projections in ((closed, 1), (steered, 2)):
        assert len(patch.factors) == projections * len(model.cross_attention())
        assert {name.removeprefix("lora_unet_") for name in patch.factors} <= modules
        assert any(f.up.abs().max() > 0 for f in patch.factors.values())
    assert_untouched(before)
    assert [p.requires_grad for p in pipeline.unet.parameters()] == wanted


@KINDS
def test_contexts_carry_the_gradient_of_words(pairs, kind):
    """Against a difference quotient along a random direction."""
    model = pairs[kind][0]
    word, g = words_of(model), torch.Generator().manual_seed(7)
    direction = {k: torch.randn(v.shape, generator=g) for k, v in word.items()}
    weights = torch.randn(model.encode([""])[0].context.shape, generator=g)

    def value(w):
        return (model.encode(["a <concept>, in a house"], [w])[0].context * weights).double().sum()

    with torch.inference_mode(), model.ready_for_gradients(text=True):
        learned = {k: v.clone().requires_grad_() for k, v in word.items()}
        value(learned).backward()
        slope = sum((learned[k].grad * direction[k]).double().sum() for k in word)
    step = 1e-3
    ahead, behind = ({k: v + s * direction[k] for k, v in word.items()} for s in (step, -step))
    quotient = (value(ahead) - value(behind)) / (2 * step)
    assert abs(slope) > 1 and abs(slope - quotient) < 0.02 * abs(slope)
    assert not value(word).requires_grad


def test_words_beside_punctuation_are_kept_whole(pairs):
    model = pairs["miniature"][0]
    (prompt,) = model.encode(["a <concept>, in rain"], [words_of(model)])
    plain = model.encode(["a zebra, in rain"])[0].tokens["l"][0]
    chunk = prompt.tokens["l"][0]
    assert [i < 0 for i in chunk[:6]] == [False, False, True, True, False, False]
    assert chunk[4:8] == plain[3:7]


def test_a_loaded_patch_counts_as_part_of_the_model(pairs, tmp_path):
    """The stock loader of diffusers reads the file, and weight() sees what it did."""
    from mini_sd.export_diffusers import build_pipeline

    ours = pairs["miniature"][0]
    concept = make_concept(ours, "zebra")
    patch = forget_closed_form(ours, [concept])
    save_patch(patch, tmp_path / "patch.safetensors")
    pipeline = build_pipeline()
    pipeline.load_lora_weights(str(tmp_path), weight_name="patch.safetensors")
    patched, stored = DiffusersModel(pipeline), patch.as_stored()
    assert patched.linear_layers().keys() == ours.linear_layers().keys()
    for layer in ours.cross_attention():
        delta = stored.factors[kohya_name(layer.name, "to_v")].delta()
        expected = ours.weights([(layer.name, "to_v")])[0] + delta
        torch.testing.assert_close(patched.weights([(layer.name, "to_v")])[0], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(patched.weights([(layer.name, "to_k")])[0], ours.weights([(layer.name, "to_k")])[0])
    again = forget_closed_form(patched, [make_concept(patched, "dog")])
    assert again.factors.keys() == patch.factors.keys()
