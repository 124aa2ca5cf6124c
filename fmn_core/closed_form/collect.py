"""Encodes target pairs and preserve prompts and sums them into the moments of a solve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..concepts.concept import Concept
from ..concepts.preserve import encode_imagined, encode_imagined_styles, imagined_word_count
from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.tokens import EncodedPrompt, LearnedEmbedding, concept_columns, row_weights
from .moments import Moments, MomentSums
from .targets import ZERO, TargetPair, context_columns, first_steered, pair_columns, steered_pair, template_pairs

# Padding rows of a prompt are much alike, so that most prompts are encoded with PADDING of them, which stand for all. One prompt in
# WHOLE keeps every row, so that the solve also sees padding at late positions.
PADDING, WHOLE = 1, 19
# Moments of the two halves of a cross-validation.
Halves = tuple[Moments, Moments]
# Relative distance below which two rows are the same; prompts of another length are encoded with other roundings.
_SAME_ROW = 1e-3


@dataclass
class EncodedPair:
    """A target pair, its full prompt and target encoded, and the halves of the cross-validation that it belongs to."""

    pair: TargetPair
    full: EncodedPrompt
    target: EncodedPrompt
    halves: tuple[int, ...]


@dataclass
class EncodedSolve:
    """All prompts of a solve, encoded.

    Attributes
    ----------
    preserved, imagined
        Preserve prompts, and imagined words in their templates, each with its half.
    imagined_weight
        Weight of each of the latter. More draws estimate the same mean better; their total weight stays that of the number asked for, so
        that they do not outweigh what the user listed.
    """

    pairs: list[EncodedPair]
    preserved: list[tuple[int, EncodedPrompt]]
    imagined: list[tuple[int, EncodedPrompt]]
    imagined_weight: float = 1.0

    def prompts(self) -> list[EncodedPrompt]:
        """All of them."""
        steered = [prompt for p in self.pairs for prompt in (p.full, p.target)]
        return [*steered, *(prompt for _, prompt in [*self.preserved, *self.imagined])]


def encode_solve(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[TargetPair] | None = None,
) -> EncodedSolve:
    """Encodes target pairs and the preserve set, in two halves for cross-validation.

    Parameters
    ----------
    preserve
        Groups of preserve prompts; a group lies in one half as a whole.
    imagined
        Imagined words to preserve for each concept.
    pairs
        Target pairs; by default those of `template_pairs(concepts)`. Every other template lies in one half; a single template in both.
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
    single = max(pair.template for pair in pairs) == 0
    texts, words = [p.full for p in pairs], [p.name.embedding for p in pairs]
    encoded = _encode_with_short_padding(model, texts, words, [p.template % WHOLE == 0 for p in pairs])
    steered = [
        EncodedPair(pair, prompt, kept[pair.target], (0, 1) if single else (pair.template % 2,))
        for pair, prompt in zip(pairs, encoded)
    ]
    solve = EncodedSolve(steered, [(half, kept[text]) for text, half in half_of.items()], [])
    if imagined:
        drawn = imagined_word_count(imagined, len(concepts))
        # Half of the words name things, in the concepts' templates, and half name styles.
        prompts = encode_imagined(model, concepts, drawn - drawn // 2, PADDING)
        prompts += encode_imagined_styles(model, drawn // 2, PADDING)
        solve.imagined, solve.imagined_weight = [(n % 2, p) for n, p in enumerate(prompts)], imagined / drawn
    return solve


def collect_moments(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[TargetPair] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Halves:
    """The `row_moments` of the prompts that `encode_solve` encodes."""
    return row_moments(model, encode_solve(model, concepts, preserve, imagined, pairs), dtype, device)


def row_space(prompts: Iterable[EncodedPrompt]) -> torch.Tensor | None:
    """An orthonormal basis (width, rows) of a space that holds all rows of prompts, in float64; None where it would not be much smaller.

    Notes
    -----
    A solve in its coordinates is the same solve: an edit changes nothing in directions that no row has.
    """
    rows = [block.context for prompt in prompts for block in prompt.blocks]
    if not rows or 2 * sum(len(part) for part in rows) > rows[0].shape[1]:
        return None
    return torch.linalg.qr(torch.cat(rows).double().T).Q


def row_moments(
    model: TextModel,
    solve: EncodedSolve,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    basis: torch.Tensor | None = None,
) -> Halves:
    """Sums the contexts' rows into moments, one for each half.

    Parameters
    ----------
    dtype, device
        Precision and place of the moments.
    basis
        Of a space that holds all rows, see `row_space`; None: rows are summed as they are.

    Raises
    ------
    ForgetError
        Where a phrase is not found in its own prompt, or a prompt has more than 75 tokens.
    """
    halves = _empty_halves(solve.pairs[0].target.context.shape[1], dtype, device, basis)
    for steered in solve.pairs:
        for full, target in zip(steered.full.blocks, steered.target.blocks):
            for half in steered.halves:
                halves[half].add_pair(*_moment_rows(model, steered.pair, full, target))
    forgotten = _ForgottenRows(model, solve.pairs)
    for half, prompt in solve.preserved:
        for block in prompt.blocks:
            halves[half].add_preserved(block.context, forgotten.preserved_weights(block))
    for half, prompt in solve.imagined:
        for block in prompt.blocks:
            halves[half].add_preserved(block.context, row_weights(block, model.vocabulary) * solve.imagined_weight)
    return halves[0].result(), halves[1].result()


def pooled_moments(
    solve: EncodedSolve, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Halves | None:
    """Sums pooled embeddings into moments as `row_moments` sums rows; None where the model's prompts have none.

    Notes
    -----
    One vector stands for a whole prompt, so that there are no columns to tell apart: the full prompt's goes to the target's, whatever the
    target is.
    """
    first = solve.pairs[0].target.pooled
    if first is None:
        return None
    halves = _empty_halves(first.shape[1], dtype, device)
    for steered in solve.pairs:
        source, aim = _pooled(steered.full), _pooled(steered.target)
        for half in steered.halves:
            halves[half].add_pair(source, aim + steered.pair.overshoot * (aim - source))
    for prompts, weight in ((solve.preserved, 1.0), (solve.imagined, solve.imagined_weight)):
        for half, prompt in prompts:
            halves[half].add_preserved(_pooled(prompt), torch.full((1,), weight))
    return halves[0].result(), halves[1].result()


def _pooled(prompt: EncodedPrompt) -> torch.Tensor:
    if prompt.pooled is None:
        raise ForgetError(
            f"Expected a pooled embedding with every prompt, got none with {prompt.text[:60]!r}. Load the CLIP that belongs to the MODEL."
        )
    return prompt.pooled


def _empty_halves(
    width: int, dtype: torch.dtype, device: torch.device | str, basis: torch.Tensor | None = None
) -> tuple[MomentSums, MomentSums]:
    first, second = (MomentSums(Moments.empty(width, dtype, device, basis)) for _ in range(2))
    return first, second


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

    def __init__(self, model: TextModel, pairs: list[EncodedPair]):
        self.model = model
        self.phrases: dict[str, list[list[int]]] = {}
        for name in dict.fromkeys(p.pair.name.text for p in pairs if p.pair.name.embedding is None):
            for encoder, spellings in model.phrase_spellings(name).items():
                self.phrases.setdefault(encoder, []).extend(spellings)
        blocks = [(block, p.pair.name) for p in pairs for block in p.full.blocks]
        self.rows = torch.cat([block.context[context_columns(model, block, name)] for block, name in blocks])

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
    return source, target, weight[columns] if pair.how == ZERO else weight[first_steered(prompt, columns) :]
