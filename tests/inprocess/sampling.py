"""Sampling by the host inside this process."""

import json

import torch

from tools import comfy_host


def sample(model, positive, negative, size=(16, 16), batch=1, steps=2, seed=0, channels=4):
    """Latents in the model's scale."""
    import comfy.sample

    latent = torch.zeros(batch, channels, *size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(model, noise, steps, 3.0, "euler", "simple", positive, negative, latent, seed=seed)


def control_net():
    """A ControlNet of the host's own class for the miniature, with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    settings = json.loads((comfy_host.REPOSITORY / "mini_sd" / "config.json").read_text())["unet"]
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **settings)
    g = torch.Generator().manual_seed(4)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.05)
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))
