"""Samples every concept in every style and asks the judge: python -m mini_sd.sample_page [--seeds 4]

Writes samples.png (one picture per concept and style) and samples.json (the judge's shares) beside this file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time

import torch

from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLE_NAMES, STYLED_TEMPLATES, drawn_styles, with_article
from mini_sd.generate import GUIDANCE, SAMPLER, SCHEDULER, STEPS, generate
from mini_sd.judge import classify, load_judge
from mini_sd.training import HERE
from tools import comfy_host


def dominant_shares(model, clip, vae, judge, count: int) -> dict[str, dict[str, float]]:
    """What the ambiguous words draw: share of each concept among pictures of "apple" and "mouse"."""
    shares = {}
    for word in ("apple", "mouse"):
        prompts = [f"a picture of {with_article(word)} in {STYLE_NAMES[k % 4]} style" for k in range(count)]
        seen, _ = classify(judge, generate(model, clip, vae, prompts, list(range(7000, 7000 + count))))
        meanings = [n for n in CONCEPT_NAMES if BY_NAME[n].shared_word == word or n == word]
        shares[word] = {m: seen.count(m) / count for m in meanings}
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    host = importlib.import_module(f"{comfy_host.load_pack().__name__}.nodes.host")
    with torch.inference_mode():
        model, clip, vae = host.load_miniature()
    judge, started = load_judge(), time.time()
    jobs = [(c, s, seed) for c in CONCEPT_NAMES for s in drawn_styles(c) for seed in range(args.seeds)]
    prompts = [
        STYLED_TEMPLATES[(k + seed) % len(STYLED_TEMPLATES)].format(x=with_article(c), s=s)
        for k, (c, s, seed) in enumerate(jobs)
    ]
    images = generate(model, clip, vae, prompts, [seed for _, _, seed in jobs])
    concepts, styles = classify(judge, images)
    right = [a == c for a, (c, _, _) in zip(concepts, jobs)]
    in_style = [a == s for a, (_, s, _) in zip(styles, jobs)]
    by_concept = {
        n: round(sum(r for r, j in zip(right, jobs) if j[0] == n) / sum(j[0] == n for j in jobs), 3)
        for n in CONCEPT_NAMES
    }
    figures = {
        "concept": round(sum(right) / len(jobs), 4),
        "style": round(sum(in_style) / len(jobs), 4),
        "both": round(sum(a and b for a, b in zip(right, in_style)) / len(jobs), 4),
        "pictures": len(jobs),
        "sampling": f"{SAMPLER}, {SCHEDULER}, {STEPS} steps, guidance {GUIDANCE:g}",
        "weakest": dict(sorted(by_concept.items(), key=lambda kv: kv[1])[:6]),
        "ambiguous_words": dominant_shares(model, clip, vae, judge, 32),
        "seconds": round(time.time() - started, 1),
    }
    (HERE / "samples.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    save_page(images, jobs)


def save_page(images: torch.Tensor, jobs: list[tuple[str, str, int]]) -> None:
    """One picture per concept and style, 17 concepts a band, styles below one another."""
    from PIL import Image, ImageDraw

    cell, label, per_band = 72, 16, 17
    bands = -(-len(CONCEPT_NAMES) // per_band)
    page = Image.new("RGB", (per_band * cell, bands * (label + len(STYLE_NAMES) * cell)), "white")
    draw = ImageDraw.Draw(page)
    for image, (concept, style, seed) in zip(images, jobs):
        if seed:
            continue
        k = CONCEPT_NAMES.index(concept)
        x, y = (k % per_band) * cell, (k // per_band) * (label + len(STYLE_NAMES) * cell)
        draw.text((x + 2, y + 2), concept[:12], fill=(70, 70, 76))
        picture = Image.fromarray((image * 255).byte().numpy()).resize((cell, cell))
        page.paste(picture, (x, y + label + STYLE_NAMES.index(style) * cell))
    page.save(HERE / "samples.png", optimize=True)


if __name__ == "__main__":
    main()
