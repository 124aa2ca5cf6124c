"""Every node on random checkpoints of full size, which the host's stock loader reads; 1-2 steps at 256 px, minutes each.

Prompt lists are cut to a few, because text encoders of full size take seconds a prompt on a CPU.
"""

import gc
import importlib
import inspect
import math
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench import full_size
from tools import comfy_host

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14400)]

LATENT = 32
LAYERS = {"SD 1.5": 16, "SD 2.1": 16, "SD 2.1 base": 16, "SDXL": 70}
WIDTHS = {"SD 1.5": {"l": 768}, "SD 2.1": {"h": 1024}, "SD 2.1 base": {"h": 1024}, "SDXL": {"l": 768, "g": 1280}}
NATIVE = {"SD 1.5": 64, "SD 2.1": 96, "SD 2.1 base": 64, "SDXL": 128}
PREDICTS_V = {"SD 2.1"}
TEMPLATES = "a photo of a {}\na {} on a table"


@pytest.fixture(scope="module")
def pack():
    comfy_host.load_pack()

    def module(name):
        return importlib.import_module(f"forget_me_not.{name}")

    return SimpleNamespace(
        module=module,
        adapter=module("nodes.adapter.model").ComfyModel,
        nodes={node.define_schema().node_id: node for node in comfy_host.load_pack().NODES},
        kohya_name=module("fmn_core.patch.patch").kohya_name,
        error=module("fmn_core.errors").ForgetError,
    )


@pytest.fixture(scope="module")
def folders(pack, tmp_path_factory):
    """The host's folders for LoRAs, embeddings and temporary files, empty."""
    import folder_paths

    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("loras", "embeddings"):
            (root / name).mkdir()
            extensions = folder_paths.folder_names_and_paths[name][1]
            patch.setitem(folder_paths.folder_names_and_paths, name, ([str(root / name)], extensions))
            folder_paths.filename_list_cache.pop(name, None)
        patch.setattr(folder_paths, "temp_directory", str(root / "temp"))
        yield root
    for name in ("loras", "embeddings"):
        folder_paths.filename_list_cache.pop(name, None)


@pytest.fixture(scope="module", params=list(full_size.UNETS))
def loaded(request, pack, folders, tmp_path_factory):
    """MODEL, CLIP and VAE as CheckpointLoaderSimple gives them; SDXL's UNet stays in half precision."""
    import comfy.model_management
    import comfy.sd
    import folder_paths

    name, file = request.param, tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    size = full_size.write_checkpoint(name, file)
    embeddings = folder_paths.get_folder_paths("embeddings")
    with torch.inference_mode(), full_size.half_precision(name == "SDXL"):
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(file), embedding_directory=embeddings)[:3]
        found = SimpleNamespace(name=name, model=model, clip=clip, vae=vae, size=size)
        found.adapter = pack.adapter(model, clip)
    shutil.rmtree(file.parent)
    yield found
    found.__dict__.clear()
    del model, clip, vae
    comfy.model_management.unload_all_models()
    comfy.model_management.current_loaded_models.clear()
    gc.collect()


@pytest.fixture(autouse=True)
def small(pack, monkeypatch):
    """Few prompts to keep, and pairs of 256 px: nothing else is cut."""
    captions = pack.module("fmn_core.concepts.preserve").everyday_captions()[:3]
    monkeypatch.setattr(pack.module("fmn_core.concepts.preserve"), "everyday_captions", lambda: captions)
    imagined = pack.module("fmn_core.concepts.preserve").encode_imagined
    few = lambda model, concepts, count: imagined(model, concepts, 4)  # noqa: E731
    monkeypatch.setattr(pack.module("fmn_core.closed_form.collect"), "encode_imagined", few)
    monkeypatch.setattr(pack.adapter, "latent_shape", lambda self: (4, LATENT, LATENT))


@pytest.fixture
def run(pack, loaded):
    """Runs a node of the pack as the host does; inputs that are not given have the node's defaults."""

    def execute(node_id, **inputs):
        node = pack.nodes[node_id]
        taken = inspect.signature(node.execute).parameters
        have = {"model": loaded.model, "clip": loaded.clip, "vae": loaded.vae}
        defaults = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
        everything = any(p.kind == p.VAR_KEYWORD for p in taken.values())
        ids = {i.id for i in node.define_schema().inputs}
        given = {**{k: v for k, v in have.items() if k in ids}, **defaults, **inputs}
        assert everything or set(given) <= set(taken)
        with torch.inference_mode():
            return node.execute(**given).args

    return execute


def pictures(count=1):
    with torch.inference_mode():
        return torch.rand(count, 256, 256, 3, generator=torch.Generator().manual_seed(0))


def checksums(model):
    return {k: zlib.crc32(v.contiguous().numpy().data) for k, v in model.model.state_dict().items() if v.numel()}


def diffusers_layers(name):
    """Kohya name -> weight shape of every linear and convolutional layer of diffusers' UNet."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**full_size.DIFFUSERS_UNETS[name])
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    return {"lora_unet_" + n.replace(".", "_"): tuple(m.weight.shape) for n, m in layers.items()}


def assert_fits_diffusers(factors, name):
    layers = diffusers_layers(name)
    for key, f in factors.items():
        assert (f.up.shape[0], *f.down.shape[1:]) == layers[key]


def training(pack, method, **options):
    """Inputs of Train Forget Patch for one short training."""
    defaults = pack.module("nodes.ui.forget_options").DEFAULTS
    gradient = replace(defaults.gradient, drift_every=0, checkpointing=True)
    chosen = replace(defaults, gradient=gradient, pairs=1)
    return {
        "method": method, "phrase": "zebra", "templates": TEMPLATES, "steps": 1, "rank": 4, "preserve_prompts": "a horse",
        "file_name": "", "options": chosen, **options,
    }  # fmt: skip


def test_adapter_on_the_stock_loaders_model(pack, loaded, monkeypatch):
    monkeypatch.undo()
    adapter, name = loaded.adapter, loaded.name
    assert len(adapter.cross_attention()) == LAYERS[name]
    assert {k: t.shape[1] for k, t in adapter.token_embeddings().items()} == WIDTHS[name]
    assert adapter.latent_shape() == (4, NATIVE[name], NATIVE[name])
    assert pack.module("nodes.host").predicts_v(adapter.patcher) == (name in PREDICTS_V)
    [prompt] = adapter.encode(["a zebra"])
    with torch.inference_mode():
        context, pooled = loaded.clip.encode_from_tokens(loaded.clip.tokenize("a zebra"), return_pooled=True)
    torch.testing.assert_close(prompt.context, context[0].float(), atol=2e-5, rtol=1e-4)
    assert prompt.context.shape == (77, sum(WIDTHS[name].values()))
    if name == "SDXL":
        assert torch.equal(prompt.pooled, pooled.float()) and pooled.shape == (1, 1280)
    else:
        assert prompt.pooled is None


@pytest.mark.parametrize("train", ["attn2", "whole UNet"])
def test_layer_names_are_those_of_diffusers(pack, loaded, train):
    layers = loaded.adapter.trained_layers(train)
    found = {pack.kohya_name(n): tuple(m.weight.shape) for n, m in layers.items()}
    expected = diffusers_layers(loaded.name)
    if train == "attn2":
        expected = {k: v for k, v in expected.items() if "_attn2_" in k}
    assert found == expected


def test_closed_form_patch_is_applied_by_pack_and_host(pack, loaded, run, folders):
    import nodes

    patched, patch, _, report = run("FMN_TrainForgetPatch", **training(pack, "closed form", file_name="forget"))
    assert f"matched {LAYERS[loaded.name]} layers" in report
    assert_fits_diffusers(patch.factors, loaded.name)
    assert all(math.isfinite(v) for layer in patch.figures["layers"].values() for v in layer.values())
    applied, report = run("FMN_ApplyForgetPatch", patch_file="forget_me_not/forget.safetensors")
    assert "another base model" not in report
    stock, _ = nodes.LoraLoader().load_lora(loaded.model, loaded.clip, "forget_me_not/forget.safetensors", 1.0, 0.0)
    layer = loaded.adapter.cross_attention()[-1].name
    plain = loaded.adapter.weights([(layer, "to_v")])[0]
    delta = patch.factors[pack.kohya_name(layer, "to_v")].delta()
    assert delta.norm() > 0
    for model in (patched, applied, stock):
        weight = pack.adapter(model, loaded.clip).weights([(layer, "to_v")])[0]
        torch.testing.assert_close(weight, plain + delta, atol=2e-3 if loaded.name == "SDXL" else 1e-5, rtol=1e-3)


def test_resteering_leaves_the_model_alone(pack, loaded, run):
    before = checksums(loaded.model)
    inputs = training(pack, "attention re-steering", train="attn2", images=pictures())
    _, patch, _, _report = run("FMN_TrainForgetPatch", **inputs)
    assert patch.figures["losses"][0] > 0 and math.isfinite(patch.figures["losses"][0])
    last = loaded.adapter.cross_attention()[-1].name
    # No attention comes after the last layer's output, so the loss says nothing about its values.
    unmoved = {pack.kohya_name(last, "to_v"), pack.kohya_name(last, "to_out.0")}
    assert len(patch.factors) == 4 * LAYERS[loaded.name]
    assert {n for n, f in patch.factors.items() if not f.up.any()} == unmoved
    assert_fits_diffusers(patch.factors, loaded.name)
    assert checksums(loaded.model) == before


def test_visual_denoising(pack, loaded, run):
    pairs, picture = run("FMN_VisualDenoisingPairs", phrase="zebra", count=1, steps=2)
    [pair] = pairs.values()
    assert picture.isfinite().all() and not torch.equal(pair.kept, pair.zeroed)
    _, patch, _, _ = run("FMN_TrainForgetPatch", **training(pack, "visual denoising", pairs=pairs))
    assert patch.figures["losses"][0] > 0 and math.isfinite(patch.figures["losses"][0])


def test_inverted_embedding_is_named_in_a_prompt(pack, loaded, run, folders):
    inputs = {"images": pictures(), "words": "striped horse", "tokens": 2, "inversion_steps": 2, "warmup": 0}
    concept, named, _, _ = run("FMN_InvertConcept", **inputs, file_name="striped")
    [concept] = concept
    start = loaded.adapter.token_embeddings()
    assert {k: tuple(v.shape) for k, v in concept.embedding.items()} == {
        k: (2, w) for k, w in WIDTHS[loaded.name].items()
    }
    for encoder, ids in loaded.adapter.phrase_tokens("striped horse").items():
        assert not torch.equal(concept.embedding[encoder], start[encoder][ids])
    assert named == "embedding:striped"
    word = pack.module("fmn_core.model.protocol.tokens").PLACEHOLDER
    [learned] = loaded.adapter.encode([f"a photo of {word}"], [concept.embedding])
    [written] = loaded.adapter.encode([f"a photo of {named}"])
    torch.testing.assert_close(written.context, learned.context, atol=1e-4, rtol=1e-4)
    (folders / "embeddings" / "striped.safetensors").unlink()


def test_zero_attention_while_the_stock_sampler_samples(pack, loaded, run):
    import nodes

    (positive,) = run("FMN_EncodePrompt", text="a photo of a zebra")
    (negative,) = run("FMN_EncodePrompt", text="")
    (zeroed,) = run("FMN_ZeroConceptAttention", phrase="zebra")
    latent = {"samples": torch.zeros(1, 4, LATENT, LATENT)}
    drawn = []
    for model in (loaded.model, zeroed):
        with torch.inference_mode():
            [out] = nodes.KSampler().sample(model, 0, 2, 5.0, "euler", "normal", positive, negative, latent)
        assert out["samples"].isfinite().all()
        drawn.append(out["samples"])
    assert not torch.equal(*drawn)


def test_attention_map_and_mask(loaded, run):
    inputs = {"prompt": "a photo of a zebra", "phrase": "zebra", "width": 256, "height": 256, "steps": 1}
    (picture,) = run("FMN_ConceptAttentionMap", **inputs)
    assert picture.shape == (1, 256, 256, 3) and picture.isfinite().all()
    mask, overlay = run("FMN_AttentionMask", images=pictures(), phrase="zebra", steps=1)
    assert mask.shape == (1, 256, 256) and 0 < mask.mean() < 1 and overlay.isfinite().all()


def test_concept_correction(loaded, run, pack, monkeypatch):
    few = tuple(TEMPLATES.split("\n"))
    monkeypatch.setattr(pack.module("fmn_core.concepts.concept"), "templates_for", lambda kind, phrases: few)
    inputs = {
        "images": pictures(),
        "word": "apple",
        "contexts": "green apple",
        "tokens": 1,
        "inversion_steps": 1,
        "report_samples": 0,
    }
    _, patch, _, report = run("FMN_ConceptCorrection", **inputs, file_name="")
    assert f"matched {LAYERS[loaded.name]} layers" in report
    assert_fits_diffusers(patch.factors, loaded.name)


def test_patches_are_merged_shrunk_gated_and_described(pack, loaded, run):
    made = [
        run("FMN_TrainForgetPatch", **training(pack, "closed form", phrase=phrase))[1]
        for phrase in ("zebra", "a teapot")
    ]
    merged, report = run("FMN_MergeForgetPatches", patch_1=made[0], patch_2=made[1], file_name="")
    assert "fusion of 2 patches" in report and min(merged.figures["effect_kept"]) > 0.5
    assert_fits_diffusers(merged.factors, loaded.name)
    smaller, report = run("FMN_ShrinkForgetPatch", forget_patch=merged, rank=2, file_name="")
    assert {f.rank for f in smaller.factors.values()} == {2} and "energy left behind" in report
    text, _, _ = run("FMN_ForgetPatchInfo", forget_patch=merged)
    assert f"{LAYERS[loaded.name]} of {LAYERS[loaded.name]} layers match; the same base" in text

    import nodes

    (positive,) = run("FMN_EncodePrompt", text="a photo of a zebra")
    (negative,) = run("FMN_EncodePrompt", text="")
    gated, same, report = run("FMN_GatedForgetPatch", forget_patch=merged, positive=positive, negative=negative)
    assert "positive 1: similarity 1.00, acts at 1.00" in report and "hooks" in gated[0][1]
    latent = {"samples": torch.zeros(1, 4, LATENT, LATENT)}
    drawn = []
    for conditioning in (positive, gated):
        with torch.inference_mode():
            [out] = nodes.KSampler().sample(loaded.model, 0, 1, 5.0, "euler", "normal", conditioning, same, latent)
        assert out["samples"].isfinite().all()
        drawn.append(out["samples"])
    assert not torch.equal(*drawn)
