"""Attacks: a search, within a budget, for an embedding or a text that brings a forgotten concept back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.token_table import by_rows, token_rows, trained_tokens
from ..model.tokens import LearnedEmbedding
from ..options import option, options
from ..training.inversion import InversionSettings, invert_concept
from ..training.noised_batches import BatchSampler, NoisedBatch
from ..training.references import References
from ..training.settings import MOST_SEED, SEED_HELP

WARMUP, LEARNING_RATE = 3, 2e-2
# Number of best replacements of each token from which GCG draws its candidates.
BEST = 64
# Batches on which the search compares all its texts at its end.
FINAL_BATCHES = 4
# Mark of a word's last token in the vocabulary of CLIP's tokenizer.
WORD_END = "</w>"

Progress = Callable[[int, int, dict], bool | None]


# Steps of a single attack. Hardening runs many searches and takes the smaller default of Budget.
ATTACK_STEPS = 50


@options
class Budget:
    """Budget of an attack, without which its success means nothing."""

    steps: int = option(default=15, help="Steps of the search; more steps, stronger attack.", minimum=1, maximum=10_000)
    batch: int = option(default=4, help="Draws of noise per step.", minimum=1, maximum=64)
    tokens: int = option(
        default=0, help="Vectors or tokens to search; 0: as many as the phrase has.", minimum=0, maximum=32
    )
    candidates: int = option(
        default=16, help="Words that a token search tries in each step; embedding: not used.", minimum=1, maximum=512
    )
    seed: int = option(default=0, help=SEED_HELP, minimum=0, maximum=MOST_SEED)


def search_embedding(
    model: ForgetModel,
    references: References,
    templates: list[str],
    phrase: str,
    budget: Budget,
    progress: Progress | None = None,
) -> LearnedEmbedding:
    """Searches by concept inversion, from the phrase's vectors, for vectors with which the attacked model draws the references.

    Parameters
    ----------
    references
        Pictures of the concept, for example drawn by the model before it forgot.

    Raises
    ------
    ForgetError
        What attack_settings and invert_concept raise.

    Notes
    -----
    Source: Pham et al., Circumventing Concept Erasure Methods. The budget here is far smaller.
    """
    return invert_concept(
        model, references, templates, attack_settings(model, phrase, budget), progress=progress
    ).embedding


def search_tokens(
    model: ForgetModel,
    references: References,
    templates: list[str],
    phrase: str,
    budget: Budget,
    vocabulary: Mapping[int, str],
    progress: Progress | None = None,
) -> str:
    """Searches, from the phrase, for a text of ordinary words with which the attacked model denoises the references best.

    Parameters
    ----------
    vocabulary
        Tokens by their ids, in the spelling of CLIP's tokenizer ("zebra</w>").

    Raises
    ------
    ForgetError
        On a budget out of range, a phrase without tokens, and a vocabulary without words that the model knows.

    Notes
    -----
    The cost, in passes of `batch` pictures, is steps * (1 backward + 1 + candidates), and at most (steps + 1) * FINAL_BATCHES at the
    end. Source: Zou et al., GCG, here on the denoising loss.
    """
    search = TokenSearch(model, references, templates, phrase, budget, vocabulary)
    for number in range(budget.steps):
        loss = search.step()
        if progress is not None and progress(number + 1, budget.steps, {"loss": loss}):
            break
    return search.best()


def attack_settings(
    model: ForgetModel, phrase: str, budget: Budget, start: LearnedEmbedding | None = None
) -> InversionSettings:
    """Settings of an inversion within a budget, from a phrase or from vectors; raises ForgetError when they have no tokens."""
    count = max(len(ids) for ids in (start or model.phrase_tokens(phrase)).values())
    if count == 0:
        raise ForgetError(
            f"Expected the phrase that was forgotten, got {phrase!r}, which has no tokens. Type its name."
        )
    return InversionSettings(
        tokens=budget.tokens or count,
        words=phrase,
        steps=budget.steps,
        warmup=WARMUP,
        learning_rate=LEARNING_RATE,
        batch=budget.batch,
        seed=budget.seed,
    )


def token_gradient(model: ForgetModel, batch: NoisedBatch, word: LearnedEmbedding) -> LearnedEmbedding:
    """Gradient of the denoising loss on a batch in each vector of a word, (m, width) per text encoder."""
    vectors = {name: v.detach().float().clone().requires_grad_() for name, v in word.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(batch.loss(model, vectors), list(vectors.values()))
    return dict(zip(vectors, gradients))


def _first_order_losses(table: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """First-order estimate of the loss, up to a constant, with every token at each position: (vocabulary, m) from a gradient (m, width)."""
    gradient = gradient.to(table.device).T
    return by_rows(table, lambda rows: rows @ gradient)


class TokenSearch:
    """Greedy coordinate search, which replaces one token at a time where that lowers the loss on the same batch."""

    def __init__(
        self,
        model: ForgetModel,
        references: References,
        templates: list[str],
        phrase: str,
        budget: Budget,
        vocabulary: Mapping[int, str],
    ):
        count = attack_settings(model, phrase, budget).tokens
        self.model, self.budget = model, budget
        self.generator = torch.Generator().manual_seed(budget.seed)
        self.batches = BatchSampler(model, references, templates, self.generator)
        self.vocabulary = vocabulary
        self.word_ids = self._word_ids()
        start = next(iter(model.phrase_tokens(phrase).values()))[:count]
        self.ids = start if self._reads_back(start) else []
        while len(self.ids) < count:
            self.ids = [*self.ids, int(self._random_choice(self.word_ids))]
        self.visited = [self.ids]

    def _word_ids(self) -> torch.Tensor:
        """Ids of whole words of plain letters that every text encoder knows."""
        known = torch.stack([trained_tokens(table) for table in self.model.token_embeddings().values()]).all(0)
        words = {i: w.removesuffix(WORD_END) for i, w in self.vocabulary.items() if w.endswith(WORD_END)}
        ids = [i for i, w in words.items() if i < len(known) and known[i] and w.isascii() and w.isalpha()]
        if not ids:
            raise ForgetError("Expected words that the text encoder knows, got none. Connect the CLIP of this model.")
        return torch.tensor(ids)

    def _random_choice(self, choices: torch.Tensor) -> torch.Tensor:
        return choices[torch.randint(len(choices), (), generator=self.generator)]

    def text(self, ids: list[int]) -> str:
        """The text that these tokens spell in a prompt."""
        return "".join(self.vocabulary[i] for i in ids).replace(WORD_END, " ").strip()

    def _reads_back(self, ids: list[int]) -> bool:
        """Whether the tokenizer turns the text of these tokens into the same tokens."""
        spelled = bool(ids) and all(i in self.vocabulary for i in ids)
        return spelled and next(iter(self.model.phrase_tokens(self.text(ids)).values())) == ids

    def step(self) -> float:
        """Tries the budget's candidates on a new batch, keeps the text with the lowest loss, and returns that loss."""
        batch = self.batches.draw(self.budget.batch)
        texts = [self.ids, *self._candidates(batch)]
        losses = self._losses(texts, [batch])
        best = int(losses.argmin())
        if best:
            self.ids = texts[best]
            self.visited.append(self.ids)
        return float(losses[best])

    def _candidates(self, batch: NoisedBatch) -> list[list[int]]:
        """Draws texts with one token replaced, among those with the lowest first-order estimate of the loss."""
        tables = self.model.token_embeddings()
        gradient = token_gradient(self.model, batch, {name: token_rows(t, self.ids) for name, t in tables.items()})
        estimates = [_first_order_losses(tables[name], g) for name, g in gradient.items()]
        estimate = torch.stack(estimates).sum(0)[self.word_ids].T
        best = self.word_ids[estimate.topk(min(BEST, len(self.word_ids)), dim=1, largest=False).indices]
        candidates: list[list[int]] = []
        for _ in range(4 * self.budget.candidates):  # Some are drawn twice, others do not read back.
            position = int(torch.randint(len(self.ids), (), generator=self.generator))
            ids = [*self.ids[:position], int(self._random_choice(best[position])), *self.ids[position + 1 :]]
            if ids != self.ids and ids not in candidates and self._reads_back(ids):
                candidates.append(ids)
            if len(candidates) == self.budget.candidates:
                break
        return candidates

    @torch.no_grad()
    def _losses(self, texts: list[list[int]], batches: list[NoisedBatch]) -> torch.Tensor:
        """Mean loss of each text over the same batches; raises ForgetError when one is not finite."""
        losses = torch.stack([torch.stack([b.loss(self.model, self.text(t)) for b in batches]).mean() for t in texts])
        if not torch.isfinite(losses).all():
            raise ForgetError("Expected a finite loss, got NaN or infinity. Use fp32, or another patch.")
        return losses.cpu()

    def best(self) -> str:
        """The text with the lowest loss, on the same new batches, among all that the search kept."""
        batches = [self.batches.draw(self.budget.batch) for _ in range(FINAL_BATCHES)]
        return self.text(self.visited[int(self._losses(self.visited, batches).argmin())])
