"""Trains UNet and text encoder together: python -m mini_sd.train_unet (resumes from out/mini_sd/unet.ckpt).

A second, short stage with --settle teaches one thing to draw where a caption names no object. With --shipped, training
starts from the shipped weights and leaves the text encoder alone.

v-prediction with zero terminal SNR on the latents of the trained VAE (out/mini_sd/vae.ckpt, or the shipped one).
"""

from __future__ import annotations

import random

import numpy as np
import torch

from mini_sd import captions
from mini_sd.concepts import CONCEPTS, FALLBACK, STYLE_NAMES, STYLES, caption
from mini_sd.export_diffusers import load_parts
from mini_sd.training import CONFIG, Run, arguments, concept_art, generators, load_art, to_tensor
from tools import comfy_host

UNKNOWN_WORD_SHARE = 0.1


def alphas_cumprod() -> torch.Tensor:
    """abar_t of the host's own schedule, (1000,)."""
    from comfy.model_sampling import ModelSamplingDiscrete

    config = type("Config", (), {"sampling_settings": CONFIG["sampling"]})
    return 1 / (1 + ModelSamplingDiscrete(config).sigmas.double() ** 2)


@torch.no_grad()
def encode_art(vae, images: np.ndarray, device: str) -> torch.Tensor:
    """Latent means of the art, (N, 4, 16, 16), unscaled."""
    parts = [vae.quant_conv(vae.encoder(to_tensor(images[i : i + 16]).to(device))) for i in range(0, len(images), 16)]
    return torch.cat(parts).chunk(2, dim=1)[0].contiguous()


def build_text_encoder() -> torch.nn.Module:
    """CLIP text model over the compact vocabulary; row 0 (unknown words) stays zero."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(captions.vocabulary()) + 1,
        max_position_embeddings=captions.LENGTH,
        hidden_act="quick_gelu",
        projection_dim=CONFIG["text"]["hidden_size"],
        bos_token_id=captions.vocabulary().index(captions.START) + 1,
        eos_token_id=captions.vocabulary().index(captions.END) + 1,
        pad_token_id=captions.UNKNOWN,
        **CONFIG["text"],
    )
    model = CLIPTextModel(config)
    embedding = model.get_input_embeddings()
    embedding.padding_idx = captions.UNKNOWN
    with torch.no_grad():
        embedding.weight[captions.UNKNOWN] = 0
    return model


def shipped_text_encoder() -> torch.nn.Module:
    """The miniature's text encoder over its compact vocabulary, in evaluation mode."""
    stored = load_parts()["text"]
    text = build_text_encoder().eval()
    rows = torch.cat([torch.zeros_like(stored["vocabulary.weight"][:1]), stored["vocabulary.weight"]])
    known = {k.removeprefix("text_model."): k for k in text.state_dict()}
    state = {known[n]: v for k, v in stored.items() if (n := k.removeprefix("text_model.")) in known}
    text.load_state_dict(state | {known["embeddings.token_embedding.weight"]: rows}, strict=False)
    return text.requires_grad_(False)


def load_vae(args) -> torch.nn.Module:
    """The trained autoencoder, or the shipped one where there is no checkpoint."""
    from mini_sd.networks import build_vae

    vae, path = build_vae().to(args.device), args.data / "vae.ckpt"
    if path.exists():
        vae.load_state_dict(torch.load(path, map_location=args.device, weights_only=True)["emas"]["vae"])
    else:
        vae.load_state_dict(load_parts()["vae"])
    return vae.eval()


def networks(args) -> dict[str, torch.nn.Module]:
    """UNet and text encoder, new, or with --shipped the shipped ones with the text encoder frozen."""
    from mini_sd.networks import build_unet

    unet = build_unet()
    if args.shipped:
        unet.load_state_dict(load_parts()["unet"])
    text = shipped_text_encoder() if args.shipped else build_text_encoder()
    return {"unet": unet.to(args.device, memory_format=torch.channels_last), "text": text.to(args.device)}


def text_batch(items: list[tuple[int, int, int]], step_seed: int, rng, settled: bool) -> torch.Tensor:
    """Compact token rows (B, 77) of one drawn caption per item."""
    draw = random.Random(step_seed)
    rows = []
    for _, c, s in items:
        row = captions.encode(caption(CONCEPTS[c], STYLE_NAMES[s], draw, settled))
        rows.append(captions.with_unknown_words(row, rng) if draw.random() < UNKNOWN_WORD_SHARE else row)
    return torch.stack(rows)


def v_loss(unet, text, x0: torch.Tensor, tokens: torch.Tensor, abar: torch.Tensor, gen: torch.Generator):
    """MSE on v = sqrt(abar) e - sqrt(1 - abar) x0, timesteps stratified over the batch."""
    n = len(x0)
    t = ((torch.arange(n) + torch.rand(n, generator=gen)) / n * len(abar)).long()
    noise = torch.randn(x0.shape, generator=gen).to(x0)
    a = abar[t].to(x0).view(-1, 1, 1, 1)
    xt, v = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
    context = text(input_ids=tokens.to(x0.device)).last_hidden_state
    xt = xt.contiguous(memory_format=torch.channels_last)
    return ((unet(xt, t.to(x0), context=context) - v) ** 2).mean()


def main() -> None:
    args = arguments(
        __doc__,
        steps=3300,
        batch=32,
        lr=1e-3,
        settle="second stage, see above",
        shipped="start from the shipped weights",
    )
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    images, names, sets = load_art(args.data)
    art = concept_art(names, sets, STYLES)
    distinct = len(art)
    if args.settle:
        art += 3 * [item for item in art if CONCEPTS[item[1]].name == FALLBACK]
    latents = encode_art(load_vae(args), images[[i for i, _, _ in art]], args.device)
    latents = latents / latents[:distinct].std()
    nets = networks(args)
    trained = [p for m in nets.values() for p in m.parameters() if p.requires_grad]
    run = Run("unet", args, nets, torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.01))
    abar = alphas_cumprod()
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        # every image once before any comes again
        order = np.random.default_rng((args.seed, run.step * args.batch // len(art), 7)).permutation(len(art))
        picked = [(run.step * args.batch + k) % len(art) for k in range(args.batch)]
        items = [int(order[k]) for k in picked]
        tokens = text_batch([art[k] for k in items], args.seed * 1_000_003 + run.step, rng, args.settle)
        loss = v_loss(nets["unet"], nets["text"], latents[items], tokens, abar, gen)
        run.step_on(loss)


if __name__ == "__main__":
    main()
