"""Encodes target pairs and preserve prompts and sums them into the moments of a solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..concepts.concept import Concept
from ..concepts.preserve import encode_imagined, encode_imagined_styles, imagined_word_count
from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.tokens import EncodedPrompt, LearnedEmbedding, Vocabulary, concept_columns, first_end, row_weights
from .moments import Moments, MomentSums
from .row_space import row_space
from .targets import ZERO, TargetPair, context_columns, first_steered, pair_columns, steered_pair, template_pairs

# Padding rows of a prompt are much alike, so that most prompts are encoded with PADDING of them, which stand for all. One prompt in
# WHOLE keeps every row, so that the solve also sees padding at late positions.
PADDING, WHOLE = 1, 19
# Moments of the two halves of a cross-validation.
Halves = tuple[Moments, Moments]
# Preserved prompts of which all padding rows are kept, and padding rows of each where they are more.
_FEW, _SAMPLED_PADDING = 64, 8
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
    preserved = _thinned(model, [kept[text] for text in half_of])
    solve = EncodedSolve(steered, list(zip(half_of.values(), preserved)), [])
    if imagined:
        drawn = imagined_word_count(imagined, len(concepts))
        # Half of the words name things, in the concepts' templates, and half name styles.
        prompts = encode_imagined(model, concepts, drawn - drawn // 2, PADDING)
        prompts += encode_imagined_styles(model, drawn // 2, PADDING)
        solve.imagined = [(n % 2, p) for n, p in enumerate(_thinned(model, prompts))]
        solve.imagined_weight = imagined / drawn
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
    """The moments of the prompts that `encode_solve` encodes."""
    return solve_rows(model, encode_solve(model, concepts, preserve, imagined, pairs)).moments(dtype, device)


@dataclass
class SolveRows:
    """Rows of a solve, with their weights and the halves of the cross-validation that they belong to.

    Attributes
    ----------
    steered
        Source rows, their targets and weights, of each pair.
    kept
        Preserved rows and their weights, of each prompt.
    """

    steered: list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor, torch.Tensor]]
    kept: list[tuple[int, torch.Tensor, torch.Tensor]]

    def space(self, others: Sequence[EncodedPrompt]) -> torch.Tensor | None:
        """Basis of the `row_space` to solve in, given further prompts on which the edit is measured."""
        sources, targets = [source for _, source, _, _ in self.steered], [target for _, _, target, _ in self.steered]
        measured = [block.context for prompt in others for block in prompt.blocks]
        return row_space(sources, targets, [rows for _, rows, _ in self.kept], measured)

    def moments(
        self,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        basis: torch.Tensor | None = None,
    ) -> Halves:
        """Sums the rows into moments, one for each half.

        Parameters
        ----------
        dtype, device
            Precision and place of the moments.
        basis
            Of the space to solve in; None: rows are summed as they are.
        """
        rows = self if basis is None else self._in_coordinates(basis.to(self.steered[0][1]))
        halves = _empty_halves(rows.steered[0][1].shape[1], dtype, device)
        for numbers, source, target, weight in rows.steered:
            for half in numbers:
                halves[half].add_pair(source, target, weight)
        for half, kept, weight in rows.kept:
            halves[half].add_preserved(kept, weight)
        first, second = (half.result() for half in halves)
        return (first, second) if basis is None else (first.in_basis(basis), second.in_basis(basis))

    def _in_coordinates(self, basis: torch.Tensor) -> SolveRows:
        """The rows in the coordinates of a basis, which are computed for all of them at once."""
        sources, targets, kept = (
            (torch.cat(rows) @ basis).split([len(part) for part in rows])
            for rows in (
                [s for _, s, _, _ in self.steered],
                [t for _, _, t, _ in self.steered],
                [k for _, k, _ in self.kept],
            )
        )
        steered = [(pair[0], source, target, pair[3]) for pair, source, target in zip(self.steered, sources, targets)]
        return SolveRows(steered, [(half, rows, weight) for (half, _, weight), rows in zip(self.kept, kept)])


def solve_rows(model: TextModel, solve: EncodedSolve) -> SolveRows:
    """The rows of encoded prompts; raises ForgetError where a phrase is not in its own prompt, or a prompt has more than 75 tokens."""
    steered = [
        (p.halves, *_moment_rows(model, p.pair, full, target))
        for p in solve.pairs
        for full, target in zip(p.full.blocks, p.target.blocks)
    ]
    forgotten = _ForgottenRows(model, solve.pairs)
    kept = [
        (half, block.context, forgotten.preserved_weights(block)) for half, p in solve.preserved for block in p.blocks
    ]
    kept += [
        (half, block.context, row_weights(block, model.vocabulary) * solve.imagined_weight)
        for half, p in solve.imagined
        for block in p.blocks
    ]
    return SolveRows(steered, kept)


def pooled_moments(
    solve: EncodedSolve, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Halves | None:
    """Sums pooled embeddings into moments as `SolveRows.moments` sums rows; None where the model's prompts have none.

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


def _empty_halves(width: int, dtype: torch.dtype, device: torch.device | str) -> tuple[MomentSums, MomentSums]:
    return MomentSums(Moments.empty(width, dtype, device)), MomentSums(Moments.empty(width, dtype, device))


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


def _thinned(model: TextModel, prompts: list[EncodedPrompt]) -> list[EncodedPrompt]:
    """Many prompts with a part of their padding, each with other rows of it, where padding sees the prompt and its place (T5)."""
    if len(prompts) <= _FEW:
        return prompts
    thinned = []
    for number, prompt in enumerate(prompts):
        first, *further = (_with_less_padding(block, model.vocabulary, number) for block in prompt.blocks)
        thinned.append(replace(first, pooled=prompt.pooled, further=tuple(further)))
    return thinned


def _with_less_padding(block: EncodedPrompt, vocabulary: Vocabulary, number: int) -> EncodedPrompt:
    start = max(first_end(chunks[0], vocabulary) for chunks in block.tokens.values()) + 1
    padding = block.context[start:]
    if block.causal or len(padding) <= _SAMPLED_PADDING:
        return replace(block, further=())
    stride = len(padding) // _SAMPLED_PADDING
    # A copy, so that the rows that are left out are freed.
    return replace(block, context=torch.cat([block.context[:start], padding[number % stride :: stride]]), further=())


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
