"""How far a patch of SDXL gets with one of its two text entries edited, and with both: python -m bench.second_door

On an SDXL of full size with random weights, so that the figures are about the algebra and the doors, not about pictures: the gap is how
far the patched model's prediction for a prompt with the phrase is from the untouched model's for the same prompt without it, relative to
what the phrase does; the drift, how far its predictions for other prompts move. Writes bench/results/second_door.md. 12 GB of memory.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import torch

from bench.concept_bench.provenance import git_commit
from bench.results_page import RESULTS, machine
from bench.speed_models import model_of
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept
from fmn_core.concepts.preserve import everyday_captions
from fmn_core.model.entries import POOLED, reads_of
from fmn_core.patch.patch import ForgetPatch
from tools import comfy_host

TEMPLATES = ["a photo of a {}", "a {} on a table", "a drawing of a {} in the park", "two of a {} at night"]
CAPTIONS, OTHERS = 40, 4
SIDE, SIGMA = 32, 3.0


def predictions(model: Any, prompts: list[str]) -> torch.Tensor:
    """Predicted x0 (B, 4, SIDE, SIDE) of the same noise with each prompt."""
    x = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * SIGMA
    with torch.no_grad():
        rows = [model.denoise(x, torch.full((1,), SIGMA), [p]) for p in model.encode(prompts)]
    return torch.cat(rows)


def patches(model: Any) -> dict[str, ForgetPatch]:
    """The patches to compare, by what they edit."""
    # Padding rows of random text encoders differ from one another, those of trained ones hardly do.
    setattr(importlib.import_module("fmn_core.closed_form.collect"), "PADDING", None)  # noqa: B010
    settings = ClosedFormSettings(
        overshoot=0.0, imagined_words=0, vocabulary_words=0, use_everyday_captions=False,
        preserve_prompts=list(everyday_captions()[:CAPTIONS]), rank=256, tolerance=0.0,
    )  # fmt: skip
    concept, made = Concept(["zebra"], "object", TEMPLATES), {}
    for train in ("values", "keys and values"):
        both = forget_closed_form(model, [concept], replace(settings, train=train))
        attention = {n: f for n, f in both.factors.items() if reads_of(n) != POOLED}
        pooled = {n: f for n, f in both.factors.items() if reads_of(n) == POOLED}
        made |= {f"cross-attention {train}": replace(both, factors=attention), f"{train} and pooled": both}
        made |= {"pooled alone": replace(both, factors=pooled)}
    return made


def rows() -> list[tuple[str, float, float, float]]:
    """What is edited, gap, drift of preserved captions, and drift of others."""
    with model_of("SDXL", "fp16") as subject:
        model = subject.adapter()
        full, bare = ([" ".join(t.format(word).split()) for t in TEMPLATES] for word in ("zebra", ""))
        kept, others = list(everyday_captions()[:OTHERS]), list(everyday_captions()[CAPTIONS : CAPTIONS + OTHERS])
        made = patches(model)
        before = {
            k: predictions(model, v) for k, v in (("full", full), ("bare", bare), ("kept", kept), ("others", others))
        }
        results = []
        for name, patch in made.items():
            patched = subject.adapter_class(subject.host.apply_patch(subject.model, patch, 1.0)[0], subject.clip)
            after = {k: predictions(patched, v) for k, v in (("full", full), ("kept", kept), ("others", others))}
            gap = (after["full"] - before["bare"]).norm() / (before["full"] - before["bare"]).norm()
            drifts = [(after[k] - before[k]).norm() / before[k].norm() for k in ("kept", "others")]
            results.append((name, float(gap), float(drifts[0]), float(drifts[1])))
            print(*results[-1], flush=True)
        return results


def main() -> None:
    comfy_host.load_pack()
    lines = [f"| {name} | {gap:.3f} | {kept:.3f} | {others:.3f} |" for name, gap, kept, others in rows()]
    text = f"""# SDXL's two doors

{(__doc__ or "").split(":", 1)[0]}. SDXL of full size, random weights, {len(TEMPLATES)} templates, {CAPTIONS} captions preserved, latents of {SIDE} x {SIDE}.

| edited | gap | drift of preserved captions | drift of other captions |
| --- | --- | --- | --- |
{chr(10).join(lines)}

Gap: |f'(full) - f(ablated)| / |f(full) - f(ablated)|. Drift: |f'(other) - f(other)| / |f(other)|. Random text encoders do not keep other captions apart from
the concept, as trained ones do; the last column says nothing about trained models.

Made by `python -m bench.second_door` at {git_commit()}, {machine()}.
"""
    (RESULTS / "second_door.md").write_text(text)


if __name__ == "__main__":
    main()
