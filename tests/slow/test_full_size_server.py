"""A full-size checkpoint through the real server, from the stock loader to the picture."""

import pytest
import torch
from prompts import pictures, train_inputs

from bench import full_size

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def test_trained_saved_and_sampled_with_stock_nodes(server, patches):
    from tools import comfy_host

    comfy_host.load_pack()
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    full_size.write_checkpoint("SD 1.5", folder / "random.safetensors")
    options = dict(server.object_info()["FMN_TrainingOptions"]["input"]["required"].items())
    options = {i: d[1]["default"] for i, d in options.items()} | {"drift_every": 0, "checkpointing": True}
    prompt = {
        "mini": node("CheckpointLoaderSimple", ckpt_name="random.safetensors"),
        "image": node("EmptyImage", width=256, height=256, batch_size=1, color=8421504),
        "options": node("FMN_TrainingOptions", **options),
        "train": node(
            "FMN_TrainForgetPatch",
            **train_inputs(method="attention re-steering", steps=1, rank=4, preserve_prompts="a horse"),
            images=["image", 0], vae=["mini", 2], options=["options", 0],
        ),
        "zero": node(
            "FMN_ZeroConceptAttention", model=["train", 0], clip=["mini", 1], phrase="zebra", strength=1.0, end_token="all",
            layers="all", start_percent=0.0, end_percent=1.0, renormalise=False,
        ),
        "text": node("FMN_EncodePrompt", clip=["mini", 1], text="a photo of a zebra"),
        "negative": node("CLIPTextEncode", clip=["mini", 1], text=""),
        "latent": node("EmptyLatentImage", width=256, height=256, batch_size=1),
        "sample": node(
            "KSampler", model=["zero", 0], seed=0, steps=1, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
            positive=["text", 0], negative=["negative", 0], latent_image=["latent", 0],
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["mini", 2]),
        "picture": node("PreviewImage", images=["decode", 0]),
    }  # fmt: skip
    try:
        outputs = server.run(prompt)
    finally:
        (folder / "random.safetensors").unlink()
    assert "matched 32 layers" in outputs["train"]["text"][0]
    assert (patches / "forget_zebra.safetensors").is_file()
    picture = pictures(server, outputs, "picture")
    assert picture.shape == (1, 256, 256, 3) and picture.float().std() > 0 and picture.dtype == torch.uint8
