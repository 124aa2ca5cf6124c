"""What cases and steps work with: the pack's nodes, the miniature's MODEL, CLIP and VAE, and pictures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fmn_core.attacks.search import Budget
from tests import prompts
from tools import comfy_host

from . import host, runs
from .configuration import Configuration

ZEBRA, HORSE = prompts.ZEBRA, prompts.HORSE
DRAWN = ("zebra", "zebra", "red apple", "red apple", "frog", "frog", "umbrella", "umbrella")
RESTEER, VISUAL, BOTH = "attention re-steering", "visual denoising", "re-steering and visual denoising"
FLOAT32 = "float32 on the model's device"


class World:
    """One host with the miniature loaded, and the nodes called as the host calls them."""

    def __init__(self, configuration: Configuration, folder: Path):
        self.configuration, self.folder = configuration, folder.resolve()
        self.management = host.activate(configuration, self.folder)
        self.nodes = SimpleNamespace(**{c.__name__: c for c in comfy_host.load_pack().NODES})
        self.load()

    def load(self) -> None:
        """Loads the miniature anew: nothing has been on the device."""
        self.management.unload_all_models()
        self.model, self.clip, self.vae = self.nodes.LoadMiniature.execute().args
        self.image_text = self.nodes.LoadImageTextModel.execute("miniature").args[0]

    def forget_cache(self) -> None:
        self.nodes.ClearForgetCache.execute()

    def pictures(self) -> torch.Tensor:
        """Two pictures of each of four things, (8, 128, 128, 3), the CPU's in every configuration."""
        return torch.load(runs.pictures_file())

    def draw_things(self) -> torch.Tensor:
        """What `pictures` has, drawn on this world's device."""
        from mini_sd.generate import generate

        texts = [f"a picture of a {thing} in noto style" for thing in DRAWN]
        seeds = list(range(9, 9 + len(texts)))
        return generate(self.model, self.clip, self.vae, texts, seeds, steps=12).float().cpu()

    def encode(self, text: str) -> Any:
        return self.nodes.EncodePrompt.execute(text=text, clip=self.clip).args[0]

    def sample(self, model, positive=None, negative=None, batch=1, steps=4, seed=0) -> torch.Tensor:
        """Latents (batch, 4, 16, 16) by the host's sampler."""
        import comfy.sample

        latent = torch.zeros(batch, 4, 16, 16)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        positive = self.encode(ZEBRA) if positive is None else positive
        negative = self.encode("") if negative is None else negative
        sampled = comfy.sample.sample(
            model, noise, steps, 3.0, "euler", "simple", positive, negative, latent, seed=seed, disable_pbar=True
        )
        assert sampled.device.type == "cpu"
        return sampled.float()

    def draw(self, model, text: str = ZEBRA) -> torch.Tensor:
        return self.vae.decode(self.sample(model, self.encode(text))).float().cpu()

    def train(self, **changes) -> Any:
        """MODEL, patch, plot and report of Train Forget Patch, three steps unless told otherwise."""
        inputs = prompts.train_inputs(file_name="") | {"model": self.model, "clip": self.clip} | changes
        return self.nodes.TrainForgetPatch.execute(**inputs).args

    def trained(self, **changes) -> dict[str, Any]:
        """What a training gives, to be compared: its weight changes, losses, and a picture of the patched model."""
        model, patch, plot, report = self.train(**changes)
        losses = torch.tensor(patch.figures.get("losses", [0.0]))
        return {**deltas(patch), "plot": plot, "picture": self.draw(model), "losses": losses, "report": report}

    def training_options(self, **changes) -> Any:
        return self.nodes.TrainingOptions.execute(**prompts.options(**changes)["options"]["inputs"]).args[0]

    def closed_form_options(self, **changes) -> Any:
        inputs = prompts.closed_form_options(**changes)["options"]["inputs"]
        return self.nodes.ClosedFormOptions.execute(**inputs).args[0]

    def inputs_of(self, prompt: dict[str, Any], name: str, vae: bool = True, **changes) -> dict[str, Any]:
        """A node's inputs from one of tests/prompts.py, with this world's models."""
        models = {"model": self.model, "clip": self.clip} | ({"vae": self.vae} if vae else {})
        return prompt[name]["inputs"] | models | changes

    def pairs(self, **changes) -> Any:
        return self.nodes.VisualDenoisingPairs.execute(**self.inputs_of(prompts.pairs(), "pairs") | changes).args

    def zeroed(self, model=None, **changes) -> Any:
        """A MODEL with the zebra's attention zeroed."""
        inputs = {"phrase": "zebra", "strength": 1.0, "end_token": "none", "layers": "all"}
        inputs |= {"start_percent": 0.0, "end_percent": 1.0, "renormalise": False}
        return self.nodes.ZeroConceptAttention.execute(
            model=model or self.model, clip=self.clip, **inputs | changes
        ).args[0]

    def gated(self, patch, positive, negative, **changes) -> Any:
        inputs = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "threshold": 0.0, "curve": "step"}
        inputs |= {"clip": self.clip, "patch_file": "", "forget_patch": patch}
        return self.nodes.GatedForgetPatch.execute(**inputs | changes, positive=positive, negative=negative).args

    def merged(self, one, two, method: str) -> Any:
        inputs = {"clip": self.clip, "patches": "", "method": method, "rank": 64, "file_name": ""}
        return self.nodes.MergeForgetPatches.execute(**inputs, patch_1=one, patch_2=two).args[0]

    @contextlib.contextmanager
    def short_attacks(self, batch: int = 1, pictures: int = 1) -> Iterator[None]:
        """Attack rounds whose searches take a single step on few pictures, which no widget offers."""
        module = host.pack_module("nodes.forget.trainings")
        before = module.ATTACKED_PICTURES
        module.Budget, module.ATTACKED_PICTURES = functools.partial(Budget, steps=1, batch=batch), pictures
        try:
            yield
        finally:
            module.Budget, module.ATTACKED_PICTURES = Budget, before

    def roots(self) -> dict[str, torch.nn.Module]:
        vae = self.vae.first_stage_model
        return {"unet": self.model.model.diffusion_model, "clip": self.clip.cond_stage_model, "vae": vae}

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of MODEL's and CLIP's weights on the CPU, without the user's patches."""
        roots = (("unet", self.model.model), ("clip", self.clip.cond_stage_model))
        return {f"{n}.{k}": v.detach().to("cpu", copy=True) for n, root in roots for k, v in root.state_dict().items()}


def mask(count: int = 1) -> torch.Tensor:
    """Masks (count, 128, 128) of a rectangle."""
    found = torch.zeros(count, 128, 128)
    found[:, 20:100, 30:110] = 1
    return found


def deltas(patch: Any, name: str = "patch") -> dict[str, Any]:
    """A patch's change of each layer's weights (out, in), float64, and where its factors lie."""
    found: dict[str, Any] = {}
    for layer, f in patch.factors.items():
        up, down = f.up.cpu().flatten(1).double(), f.down.cpu().flatten(1).double()
        found[f"{name}.device"] = f"{f.up.device.type} {f.down.device.type} {f.up.dtype}"
        found[f"{name}.{layer}"] = up @ down * (f.alpha / f.rank)
    return found


def vectors(concept: Any) -> dict[str, torch.Tensor]:
    """The learned vectors of the one concept of a chain."""
    [only] = concept
    return {f"word.{name}": value for name, value in only.embedding.items()}
