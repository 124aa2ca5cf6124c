"""Encodes target pairs and preserve prompts and sums them into the moments of a solve."""

from __future__ import annotations

import torch

from ..concepts.concept import Concept
from ..concepts.preserve import encode_imagined, encode_imagined_styles, imagined_word_count
from ..model.protocol import TextModel
from ..model.tokens import EncodedPrompt, LearnedEmbedding, concept_columns, row_weights
from .moments import Moments, MomentSums
from .targets import ZERO, TargetPair, context_columns, pair_columns, steered_pair, template_pairs

# Padding rows of a prompt are much alike, so that most prompts are encoded with PADDING of them, which stand for all. One prompt in
# WHOLE keeps every row, so that the solve also sees padding at late positions.
PADDING, WHOLE = 1, 19
# Relative distance below which two rows are the same; prompts of another length are encoded with other roundings.
_SAME_ROW = 1e-3


def collect_moments(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[TargetPair] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Moments, Moments]:
    """Encodes target pairs and the preserve set, and sums their rows into moments, in two halves for cross-validation.

    Parameters
    ----------
    preserve
        Groups of preserve prompts; a group lies in one half as a whole.
    imagined
        Imagined words to preserve for each concept.
    pairs
        Target pairs; by default those of `template_pairs(concepts)`.
    dtype, device
        Precision and place of the moments.

    Returns
    -------
    tuple[Moments, Moments]
        Moments of every other template and preserve group, and of the rest. A single template is in both halves.

    Raises
    ------
    ForgetError
        Where a phrase is not found in its own prompt, or a prompt has more than 75 tokens.
    """
    pairs = template_pairs(concepts) if pairs is None else pairs
    # Targets are preserved as well: a target that moved would no longer be what the model falls back on.
    half_of = {text: n % 2 for n, text in enumerate(dict.fromkeys(pair.target for pair in pairs))}
    for n, group in enumerate(preserve):
        half_of |= {text: n % 2 for text in group if text not in half_of}
    whole = {pair.target for pair in pairs if pair.template % WHOLE == 0}
    kept = dict(
        zip(half_of, _encode_with_short_padding(model, list(half_of), None, [text in whole for text in half_of]))
    )
    halves = tuple(MomentSums(Moments.empty(kept[pairs[0].target].context.shape[1], dtype, device)) for _ in range(2))
    single = max(pair.template for pair in pairs) == 0
    texts, words = [p.full for p in pairs], [p.name.embedding for p in pairs]
    encoded = _encode_with_short_padding(model, texts, words, [p.template % WHOLE == 0 for p in pairs])
    for pair, prompt in zip(pairs, encoded):
        for half in halves if single else (halves[pair.template % 2],):
            half.add_pair(*_moment_rows(model, pair, prompt, kept[pair.target]))
    forgotten = _ForgottenRows(model, pairs, encoded)
    for text, n in half_of.items():
        halves[n].add_preserved(kept[text].context, forgotten.preserved_weights(kept[text]))
    if imagined:
        drawn = imagined_word_count(imagined, len(concepts))
        # Half of the words name things, in the concepts' templates, and half name styles.
        things = encode_imagined(model, concepts, drawn - drawn // 2, PADDING)
        for n, prompt in enumerate([*things, *encode_imagined_styles(model, drawn // 2, PADDING)]):
            # More draws estimate the same mean better. Their total weight stays that of `imagined` words, so that they do not
            # outweigh what the user listed.
            halves[n % 2].add_preserved(prompt.context, row_weights(prompt, model.vocabulary) * (imagined / drawn))
    return halves[0].result(), halves[1].result()


def _encode_with_short_padding(
    model: TextModel, prompts: list[str], words: list[LearnedEmbedding | None] | None, whole: list[bool]
) -> list[EncodedPrompt]:
    """Encodes prompts with PADDING rows of padding, and those marked `whole` with all of it."""
    encoded: dict[int, EncodedPrompt] = {}
    for keep_all, padding in ((True, None), (False, PADDING)):
        indices = [i for i, is_whole in enumerate(whole) if is_whole == keep_all]
        if indices:
            embeddings = None if words is None else [words[i] for i in indices]
            encoded |= zip(indices, model.encode([prompts[i] for i in indices], embeddings, padding))
    return [encoded[i] for i in range(len(prompts))]


class _ForgottenRows:
    """Rows (n, dim) of the phrases in the pairs' full prompts, and the phrases' tokens per text encoder."""

    def __init__(self, model: TextModel, pairs: list[TargetPair], encoded: list[EncodedPrompt]):
        self.model = model
        self.phrases: dict[str, list[list[int]]] = {}
        for name in dict.fromkeys(pair.name.text for pair in pairs if pair.name.embedding is None):
            for encoder, ids in model.phrase_tokens(name).items():
                self.phrases.setdefault(encoder, []).append(ids)
        self.rows = torch.cat([p.context[context_columns(model, p, pair.name)] for pair, p in zip(pairs, encoded)])

    def preserved_weights(self, prompt: EncodedPrompt) -> torch.Tensor:
        """Weight of each row of a preserved prompt (l,); 0 for a row that a target pair forgets.

        A longer name may begin with a phrase. The encoder is causal, so "a photo of a zebra crossing" has the row of "a photo of a zebra".
        """
        weights = row_weights(prompt, self.model.vocabulary)
        for column in concept_columns(prompt.tokens, self.phrases, self.model.vocabulary, "none"):
            row = prompt.context[column]
            if float((self.rows - row).norm(dim=1).min()) < _SAME_ROW * float(row.norm()):
                weights[column] = 0.0
        return weights


def _moment_rows(
    model: TextModel, pair: TargetPair, prompt: EncodedPrompt, target_prompt: EncodedPrompt
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources (n, dim), targets (n, dim) and weights (n,) of a target pair, as Moments.add_pair takes them."""
    columns = pair_columns(model, prompt, pair)
    target_columns = context_columns(model, target_prompt, pair.target_name) if pair.target_name else []
    source, target = steered_pair(prompt, target_prompt, columns, target_columns, pair.how)
    target = target + pair.overshoot * (target - source)
    weight = row_weights(prompt, model.vocabulary)
    return source, target, weight[columns] if pair.how == ZERO else weight[columns[0] :]
