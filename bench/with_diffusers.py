"""Forgets a concept of the miniature in a StableDiffusionPipeline of diffusers, without ComfyUI's nodes.

python -m bench.with_diffusers [--concept "santa claus"] [--out out/diffusers]

To use another checkpoint, load it with from_pretrained in place of `exported_miniature`. diffusers needs peft to load
the patch.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.picture_figures import share
from bench.picture_pages import before_after_page
from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.patch.file import save_patch
from fmn_core.patch.patch import ForgetPatch
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, caption_of
from mini_sd.judge import classify, load_judge
from tools import comfy_host
from tools.demo.unet import neighbours

SEEDS = (1, 2, 3, 4)


def exported_miniature() -> Any:
    """The miniature as a pipeline, exported to a diffusers folder and loaded from it."""
    from diffusers import StableDiffusionPipeline

    from mini_sd.export_diffusers import build_pipeline

    with tempfile.TemporaryDirectory() as folder:
        build_pipeline().save_pretrained(folder)
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def forget(pipeline: Any, name: str) -> ForgetPatch:
    """The closed-form patch of one concept, with every other concept of the miniature preserved."""
    model = DiffusersModel(pipeline)
    settings = ClosedFormSettings(preserve_prompts=[n for n in CONCEPT_NAMES if n != name])
    return forget_closed_form(model, [make_concept(model, name, BY_NAME[name].kind)], settings)


def render(pipeline: Any, prompt: str) -> torch.Tensor:
    """One picture per seed, (N, H, W, 3) in 0..1."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    images = pipeline(
        [prompt] * len(SEEDS), num_inference_steps=20, guidance_scale=3.0, generator=generators, output_type="np"
    ).images
    return torch.from_numpy(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="zebra", choices=CONCEPT_NAMES)
    parser.add_argument("--out", type=Path, default=comfy_host.REPOSITORY / "out" / "diffusers")
    args = parser.parse_args()
    # diffusers needs torchvision; this makes it importable where its native part does not load.
    comfy_host.activate()
    pipeline = exported_miniature()
    prompts = {name: caption_of(name, "noto") for name in (args.concept, *neighbours(args.concept))}
    before = {name: render(pipeline, prompt) for name, prompt in prompts.items()}
    patch = forget(pipeline, args.concept)
    path = args.out / f"forget_{args.concept.replace(' ', '_')}.safetensors"
    size = save_patch(patch, path)
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    after = {name: render(pipeline, prompt) for name, prompt in prompts.items()}
    before_after_page({prompts[n]: (before[n], after[n]) for n in prompts}).save(args.out / "before_after.png")
    judge = load_judge()
    for name in prompts:
        seen = [share(classify(judge, pictures[name])[0], [name] * len(SEEDS)) for pictures in (before, after)]
        print(f"{name}: seen in {seen[0]:.0%} of the pictures before, {seen[1]:.0%} after")
    print(
        f"{path.name}: {size / 1000:.0f} kB, made in {patch.figures['seconds']:.1f} s; see {args.out}/before_after.png"
    )


if __name__ == "__main__":
    main()
