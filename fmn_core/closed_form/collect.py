"""Target pairs and preserve prompts, encoded and summed into the moments of a solve."""

from __future__ import annotations

import torch

from ..concepts.concept import Concept
from ..concepts.preserve import encode_imagined, imagined_in_all
from ..model.protocol import TextModel
from ..model.tokens import EncodedPrompt, LearnedEmbedding, row_weights
from .moments import Moments, MomentSums
from .targets import ZERO, TargetPair, name_columns, pair_columns, steered_pair, template_pairs

# Rows of padding that are encoded of most prompts; they stand for all of it, which is much alike. One prompt in WHOLE is encoded
# to its last row, so that the solve meets padding of every place.
PADDING, WHOLE = 1, 19


def collect_moments(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[TargetPair] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Moments, Moments]:
    """Encodes every pair, the groups of prompts to preserve, and `imagined` words for each concept.

    `pairs`: template_pairs(concepts) unless given. `dtype`, `device`: of the moments. Returns the moments of one half of the templates and preserve
    groups, and of the other half; a single template is in both. Raises ForgetError when a phrase is not found in its own
    prompt, or does not fit into one chunk.
    """
    pairs = template_pairs(concepts) if pairs is None else pairs
    # The targets are where the model is led to: they must stay what they are.
    half_of = {text: n % 2 for n, text in enumerate(dict.fromkeys(pair.target for pair in pairs))}
    for n, group in enumerate(preserve):
        half_of |= {text: n % 2 for text in group if text not in half_of}
    whole = {pair.target for pair in pairs if pair.template % WHOLE == 0}
    kept = dict(
        zip(half_of, _encode_with_short_padding(model, list(half_of), None, [text in whole for text in half_of]))
    )
    halves = tuple(MomentSums(Moments.empty(kept[pairs[0].target].context.shape[1], dtype, device)) for _ in range(2))
    single = max(pair.template for pair in pairs) == 0
    texts, words = [p.full for p in pairs], [p.name.word for p in pairs]
    encoded = _encode_with_short_padding(model, texts, words, [p.template % WHOLE == 0 for p in pairs])
    for pair, prompt in zip(pairs, encoded):
        for half in halves if single else (halves[pair.template % 2],):
            half.add_pair(*_moment_rows(model, pair, prompt, kept[pair.target]))
    for text, n in half_of.items():
        halves[n].add_preserved(kept[text].context, row_weights(kept[text], model.vocabulary))
    if imagined:
        drawn = imagined_in_all(imagined, len(concepts))
        for n, prompt in enumerate(encode_imagined(model, concepts, drawn, PADDING)):
            # More draws are a better estimate of the same: they do not count for more against what was listed.
            halves[n % 2].add_preserved(prompt.context, row_weights(prompt, model.vocabulary) * (imagined / drawn))
    return halves[0].result(), halves[1].result()


def _encode_with_short_padding(
    model: TextModel, prompts: list[str], words: list[LearnedEmbedding | None] | None, whole: list[bool]
) -> list[EncodedPrompt]:
    """Prompts with little padding, but for those that are wanted whole."""
    encoded: dict[int, EncodedPrompt] = {}
    for wanted, padding in ((True, None), (False, PADDING)):
        part = [i for i, is_whole in enumerate(whole) if is_whole == wanted]
        if part:
            chosen = None if words is None else [words[i] for i in part]
            encoded |= zip(part, model.encode([prompts[i] for i in part], chosen, padding))
    return [encoded[i] for i in range(len(prompts))]


def _moment_rows(
    model: TextModel, pair: TargetPair, prompt: EncodedPrompt, target_prompt: EncodedPrompt
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pair's rows as Moments.add_pair takes them: sources, targets, and for how many rows each stands."""
    columns = pair_columns(model, prompt, pair)
    target_columns = name_columns(model, target_prompt, pair.target_name) if pair.target_name else []
    source, target = steered_pair(prompt, target_prompt, columns, target_columns, pair.how)
    target = target + pair.overshoot * (target - source)
    weight = row_weights(prompt, model.vocabulary)
    return source, target, weight[columns] if pair.how == ZERO else weight[columns[0] :]
