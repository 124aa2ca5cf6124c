"""The shipped miniature: its files, its text encoder in the host, its export to diffusers, its judge."""

import hashlib
import shutil
import sys

import pytest
import torch

from fmn_core.errors import ForgetError
from mini_sd.concepts import CONCEPTS, caption_of, vocabulary_texts
from mini_sd.training import HERE
from tools import comfy_host

WEIGHTS = HERE / "weights"


def test_weights_are_those_recorded_and_small():
    for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest
    assert sum(p.stat().st_size for p in WEIGHTS.glob("*.safetensors")) <= 28e6


def test_every_word_of_the_captions_is_in_the_vocabulary():
    from mini_sd import captions

    known = set(captions.vocabulary())
    for text in vocabulary_texts():
        assert set(captions.word_ids(text.replace("{x}", "").replace("{s}", ""))) <= known


def test_concepts_are_of_two_kinds_with_synonyms():
    assert len(CONCEPTS) >= 32
    assert {c.kind for c in CONCEPTS} == {"object", "identity"}
    assert all(c.synonyms and all(c.synonyms) for c in CONCEPTS)


def test_export_to_diffusers_predicts_the_same(miniature, tmp_path):
    from diffusers import StableDiffusionPipeline

    from mini_sd.export_diffusers import build_pipeline

    build_pipeline().save_pretrained(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, requires_safety_checker=False)
    model, clip, vae = miniature
    prompt = caption_of("zebra", "noto")
    with torch.inference_mode():
        ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        theirs = pipe.text_encoder(ids).last_hidden_state
        ours = clip.encode_from_tokens(clip.tokenize(prompt)).float()
        torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=1e-3)
        g = torch.Generator().manual_seed(0)
        x, t = torch.randn(1, 4, 16, 16, generator=g), torch.tensor([400.0])
        unet = model.model.diffusion_model
        torch.testing.assert_close(pipe.unet(x, t, theirs).sample, unet(x, t, context=theirs), atol=1e-4, rtol=1e-3)
        picture = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
        host = vae.decode(x / model.model.latent_format.scale_factor).movedim(-1, 1) * 2 - 1
        torch.testing.assert_close(picture.clamp(-1, 1), host, atol=1e-2, rtol=1e-2)


def test_schedule_of_the_export_is_the_hosts(miniature):
    from mini_sd.export_diffusers import build_pipeline

    sigmas = miniature[0].get_model_object("model_sampling").sigmas
    abar = build_pipeline().scheduler.alphas_cumprod
    # the last one is exactly zero there and almost zero in the host
    torch.testing.assert_close(1 / (1 + sigmas[:-1].double() ** 2), abar[:-1].double(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "weights", [None, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x08"]
)
def test_a_miniature_without_its_weights_says_what_to_do(weights, tmp_path, monkeypatch):
    comfy_host.load_pack()
    module = sys.modules["forget_me_not.nodes.host.miniature"]
    shutil.copy(module.MINIATURE / "config.json", tmp_path)
    (tmp_path / "weights").mkdir()
    if weights is not None:
        (tmp_path / "weights" / "mini_sd.safetensors").write_bytes(weights)
    monkeypatch.setattr(module, "MINIATURE", tmp_path)
    with pytest.raises(ForgetError, match="Install the pack again"):
        module.load_miniature()
