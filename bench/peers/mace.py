"""MACE: Mass Concept Erasure in Diffusion Models (Lu et al., CVPR 2024, arXiv 2403.06135).

Three steps. (1) A closed form gives the words around a concept the keys and values that they have around a word that
the concept is mapped to; the released code refines both projections. (2) A rank-1 LoRA for each concept on keys and
values takes the attention from the concept's tokens inside its mask, at timesteps drawn from xi(t) = sigmoid(0.05 (t -
200)) - sigmoid(0.05 (t - 400)). (3) One closed form fuses the LoRAs.

Defaults are those of the released configs/object/erase_bird.yaml: lambda 10, 50 steps of AdamW at 1e-5, weight decay
0.01, gradients clipped at 1, 30 prompts, 8 pictures. The release takes its masks from Grounded-SAM; here a mask is the
model's attention to the phrase, cut at Otsu's threshold. Styles have no mask, as in the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.mace_attention import make_pictures, phrase_columns, train_lora
from bench.peers.peer_prompts import Forgotten
from bench.peers.uce import Rows, input_edit
from bench.peers.weights import in_place, keys_and_values
from fmn_core.concepts.templates import default_templates


@dataclass(frozen=True)
class Settings:
    """Settings of MACE.

    Parameters
    ----------
    mapped_to, style_mapped_to
        The word that an object or identity, or a style, is mapped to.
    ridge
        lambda of both solves.
    preserve_scale
        Weight of preserved prompts in both solves.
    steps, rate, clip
        Training of each LoRA: steps, learning rate, largest norm of the gradient.
    """

    mapped_to: str = "street"
    style_mapped_to: str = "art"
    ridge: float = 10.0
    preserve_scale: float = 0.0
    prompts: int = 30
    pictures: int = 8
    sampling_steps: int = 50
    guidance: float = 7.5
    steps: int = 50
    rate: float = 1e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    rank: int = 1


def context_word_rows(adapter: Any, concept: Forgotten, settings: Settings) -> list[Rows]:
    """Rows of the words around the concept, each with the row of the same word around the word that it is mapped to."""
    mapped_to = settings.style_mapped_to if concept.kind == "style" else settings.mapped_to
    templates = default_templates(concept.kind)[: settings.prompts]
    encoded = (adapter.encode([t.format(name) for t in templates]) for name in (concept.phrase, mapped_to))
    rows = []
    for named, mapped in zip(*encoded):
        a, b = phrase_columns(adapter, named, concept.phrase), phrase_columns(adapter, mapped, mapped_to)
        named_end, mapped_end = a[-1] + 1, b[-1] + 1 if b else a[0]
        tail = len(named.context) - max(named_end, mapped_end)  # without the padding that the shorter name leaves over
        sources = torch.cat([named.context[: a[0]], named.context[named_end : named_end + tail]])
        rows.append((1.0, sources, torch.cat([mapped.context[: a[0]], mapped.context[mapped_end : mapped_end + tail]])))
    return rows


def fused(
    refined: torch.Tensor, changes: Sequence[tuple[torch.Tensor, torch.Tensor]], kept: Sequence[Rows], ridge: float
) -> torch.Tensor:
    """The weight W* that acts like each LoRA on its concept's prompts.

    Parameters
    ----------
    refined
        W' (out, dim), the weight after the first step.
    changes
        For each concept its LoRA's change dW_i (out, dim), and the second moment (dim, dim) of its prompts' rows E_i.
    kept
        Preserved rows.

    Notes
    -----
    W* minimises sum_i |W* E_i - (W' + dW_i) E_i|^2 + preservation + ridge |W* - W'|^2.
    """
    dim = refined.shape[1]
    system = ridge * torch.eye(dim, dtype=torch.float64) + sum(moment for _, moment in changes)
    system = system + sum((w * p.double().T @ p.double() for w, p, _ in kept), torch.zeros_like(system))
    moved = sum(change.double() @ moment for change, moment in changes)
    return refined + torch.linalg.solve(system, moved.T).T


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The changed keys and values by name."""
    kept = [(settings.preserve_scale, p.context, p.context) for p in adapter.encode(list(preserve))]
    edit = input_edit(
        [*kept, *(rows for c in concepts for rows in context_word_rows(adapter, c, settings))], settings.ridge
    )
    refined = {name: w @ edit for name, w in keys_and_values(adapter).items()}
    changes: dict[str, list] = {name: [] for name in refined}
    with adapter.ready_for_gradients():
        pictures = [make_pictures(adapter, c, settings, seed) for c in concepts]
        with in_place(adapter.unet, refined):
            for training_pictures in pictures:
                lora = train_lora(adapter, training_pictures, settings, seed)
                contexts = torch.cat([p.context for p in training_pictures.prompts]).double().cpu()
                for name in refined:
                    layer = name.removesuffix(".weight")
                    changes[name].append(((lora.up[layer] @ lora.down[layer]).cpu(), contexts.T @ contexts))
    return {name: fused(w, changes[name], kept, settings.ridge).float() for name, w in refined.items()}
