"""Samples scenes that the miniature FLUX has not seen and asks the judge: python -m mini_flux.sample_page [--count 256]

Writes samples.json (the judge's shares) and samples.png beside this file. "held out": pairs of things and things on grounds that no training
picture has; "trained on": other scenes. Forms of captions are held out in both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import textwrap
import time

import numpy as np
import torch

from mini_flux.captions import caption
from mini_flux.config import DATA, HERE
from mini_flux.judge import Seen, load_judge, look_at, place_of
from mini_flux.prepare_art import load_artwork
from mini_flux.scenes import Scene, random_scene
from mini_sd.generate import GUIDANCE, SAMPLER, SCHEDULER, STEPS, generate
from tools import comfy_host

CELL, LABEL, PER_ROW, SHOWN = 128, 44, 8, 48


def shares(scenes: list[Scene], seen: list[Seen]) -> dict[str, float]:
    """Shares of scenes whose things stand where they should, whose ground and style are right."""

    def right(scene: Scene, found: Seen, number: int) -> bool:
        return found.things.get(place_of(scene, number)) == scene.things[number].thing

    alone = [right(s, f, 0) for s, f in zip(scenes, seen) if len(s.things) == 1]
    pairs = [[right(s, f, n) for n in range(2)] for s, f in zip(scenes, seen) if len(s.things) == 2]
    figures = {
        "one thing": alone,
        "both things": [all(p) for p in pairs],
        "either thing": [x for p in pairs for x in p],
        "ground": [f.grounds == (s.grounds[0], s.grounds[-1]) for s, f in zip(scenes, seen)],
        "style": [f.style == s.style for s, f in zip(scenes, seen)],
    }
    return {name: round(sum(values) / len(values), 4) for name, values in figures.items()}


def save_page(images: torch.Tensor, captions: list[str]) -> None:
    """Pictures with their captions."""
    from PIL import Image, ImageDraw

    rows = -(-len(images) // PER_ROW)
    page = Image.new("RGB", (PER_ROW * CELL, rows * (CELL + LABEL)), "white")
    draw = ImageDraw.Draw(page)
    for n, (image, text) in enumerate(zip(images, captions)):
        x, y = n % PER_ROW * CELL, n // PER_ROW * (CELL + LABEL)
        page.paste(Image.fromarray((image * 255).byte().numpy()), (x, y))
        draw.multiline_text((x + 2, y + CELL), "\n".join(textwrap.wrap(text, 21)[:4]), fill=(60, 60, 66), spacing=0)
    page.save(HERE / "samples.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=256)
    args = parser.parse_args()
    host = importlib.import_module(f"{comfy_host.load_pack().__name__}.nodes.host")
    with torch.inference_mode():
        model, clip, vae = host.load_miniature_flux()
    artwork, judge, figures, started = load_artwork(DATA), load_judge(), {}, time.time()
    for kind, unseen in (("trained on", False), ("held out", True)):
        rng, draw = np.random.default_rng(4321), random.Random(4321)
        scenes = [random_scene(artwork, rng, unseen=unseen) for _ in range(args.count)]
        captions = [caption(scene, draw, unseen=True) for scene in scenes]
        images = generate(model, clip, vae, captions, list(range(args.count)))
        figures[kind] = shares(scenes, look_at(judge, images))
    figures |= {
        "pictures": args.count,
        "sampling": f"{SAMPLER}, {SCHEDULER}, {STEPS} steps, guidance {GUIDANCE:g}",
        "seconds": round(time.time() - started, 1),
    }
    (HERE / "samples.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    save_page(images[:SHOWN], captions[:SHOWN])


if __name__ == "__main__":
    main()
