"""Attacks on a model that forgot: a search, within a budget, for an embedding or a text that brings the concept back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..attention.masks import check_mask, mask_to_grid
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.token_table import by_rows, token_rows, trained_tokens
from ..model.tokens import PLACEHOLDER, LearnedEmbedding
from ..model.transfer import send
from ..options import option, options
from ..training.inversion import InversionSettings, denoising_loss, invert_concept
from ..training.references import References
from ..training.settings import MOST_SEED, SEED_HELP

WARMUP, LEARNING_RATE = 3, 2e-2
# GCG draws its candidates among so many best replacements of each token.
BEST = 64
# Sets of draws on which everything that the search kept is compared at its end.
FINAL_SETS = 4
# How the vocabulary of CLIP's tokenizer marks the last token of a word.
WORD_END = "</w>"

Progress = Callable[[int, int, dict], bool | None]


# Steps of a single attack. Hardening runs many searches and takes the smaller default of Budget.
ATTACK_STEPS = 50


@options
class Budget:
    """What an attack may spend; a figure of success means nothing without it."""

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
    """Vectors, found by concept inversion started at the phrase's own, with which the attacked model draws the references.

    `references`: pictures of the concept, for example from the model before it forgot. Raises what invert_concept raises.
    Source: Pham et al., Circumventing Concept Erasure Methods; the budget here is far smaller.
    """
    return invert_concept(model, references, templates, attack_settings(model, phrase, budget), progress=progress).word


def search_tokens(
    model: ForgetModel,
    references: References,
    templates: list[str],
    phrase: str,
    budget: Budget,
    vocabulary: Mapping[int, str],
    progress: Progress | None = None,
) -> str:
    """A text of ordinary words with which the attacked model denoises the references best, started at the phrase.

    `vocabulary`: token id -> token as CLIP's tokenizer spells it ("zebra</w>"). Costs, in passes of `batch` pictures, steps * (1 backward +
    1 + candidates) and at most (steps + 1) * FINAL_SETS at the end. Raises ForgetError on a budget out of range, a phrase
    without tokens, and a vocabulary without words that the model knows. Source: Zou et al., GCG, on the denoising loss.
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
    """An inversion of this budget, from a phrase or from vectors; its checks are those of all searches."""
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


@dataclass
class Draws:
    """Noised references on which words are compared, on the model's device: x0, x (B, C, h, w), sigma (B,), mask (B, 1, h, w) or None, one template."""

    x0: torch.Tensor
    x: torch.Tensor
    sigma: torch.Tensor
    mask: torch.Tensor | None
    template: str

    def loss(self, model: ForgetModel, words: str | LearnedEmbedding) -> torch.Tensor:
        """The denoising loss, a scalar, of a text or of vectors that stand in the template; see inversion.denoising_loss."""
        text = words if isinstance(words, str) else PLACEHOLDER
        [prompt] = model.encode([fill_template(self.template, text)], None if isinstance(words, str) else [words])
        predicted = model.denoise(self.x, self.sigma, [prompt] * len(self.x)).float()
        return denoising_loss(predicted, self.x0, self.sigma, self.mask)


def draw(
    model: ForgetModel, references: References, templates: list[str], batch: int, generator: torch.Generator
) -> Draws:
    """Draws references, noise levels, noise and a template."""
    sigmas, latents = model.sigmas(), references.latents
    picked = torch.randint(len(latents), (batch,), generator=generator)
    sigma = sigmas[torch.randint(len(sigmas), (batch,), generator=generator)]
    x0 = latents[picked]
    x = x0 + sigma.view(-1, 1, 1, 1) * torch.randn(x0.shape, generator=generator)
    template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
    mask = []
    if references.masks is not None:
        h, w = x0.shape[-2:]
        masks = mask_to_grid(check_mask(references.masks), (h, w)).view(-1, 1, h, w).expand(len(latents), -1, -1, -1)
        mask = [masks[picked]]
    x0, x, sigma, *mask = send(model.device, x0, x, sigma, *mask)
    return Draws(x0, x, sigma, mask[0] if mask else None, template)


def token_gradient(model: ForgetModel, draws: Draws, word: LearnedEmbedding) -> LearnedEmbedding:
    """The gradient of the denoising loss in each vector of a word, (m, width) per text encoder."""
    vectors = {name: v.detach().float().clone().requires_grad_() for name, v in word.items()}
    with torch.enable_grad():
        loss = draws.loss(model, vectors)
        found = torch.autograd.grad(loss, list(vectors.values()))
    return dict(zip(vectors, found))


def _slopes(table: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """How the loss changes, to first order, with every token in each place: (vocabulary, m) from the vectors' gradient (m, width)."""
    gradient = gradient.to(table.device).T
    return by_rows(table, lambda rows: rows @ gradient)


class TokenSearch:
    """Greedy coordinate search: one token of the text is replaced at a time, where that lowers the loss on the same draws."""

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
        self.model, self.references, self.templates, self.budget = model, references, templates, budget
        self.generator = torch.Generator().manual_seed(budget.seed)
        self.vocabulary = vocabulary
        self.usable = self._usable_words()
        start = next(iter(model.phrase_tokens(phrase).values()))[:count]
        self.ids = start if self._reads_back(start) else []
        while len(self.ids) < count:
            self.ids = [*self.ids, int(self._pick(self.usable))]
        self.visited = [self.ids]

    def _usable_words(self) -> torch.Tensor:
        """Ids of whole words of plain letters that every text encoder knows."""
        known = torch.stack([trained_tokens(table) for table in self.model.token_embeddings().values()]).all(0)
        words = {i: w.removesuffix(WORD_END) for i, w in self.vocabulary.items() if w.endswith(WORD_END)}
        usable = [i for i, w in words.items() if i < len(known) and known[i] and w.isascii() and w.isalpha()]
        if not usable:
            raise ForgetError("Expected words that the text encoder knows, got none. Connect the CLIP of this model.")
        return torch.tensor(usable)

    def _pick(self, choices: torch.Tensor) -> torch.Tensor:
        return choices[torch.randint(len(choices), (), generator=self.generator)]

    def text(self, ids: list[int]) -> str:
        """What a prompt must say for these tokens."""
        return "".join(self.vocabulary[i] for i in ids).replace(WORD_END, " ").strip()

    def _reads_back(self, ids: list[int]) -> bool:
        known = bool(ids) and all(i in self.vocabulary for i in ids)
        return known and next(iter(self.model.phrase_tokens(self.text(ids)).values())) == ids

    def step(self) -> float:
        """Tries the budget's candidates; returns the loss of what is kept, which no candidate has beaten on these draws."""
        draws = draw(self.model, self.references, self.templates, self.budget.batch, self.generator)
        candidates = self._candidates(draws)
        losses = self._losses([self.ids, *candidates], [draws])
        kept = int(losses.argmin())
        if kept:
            self.ids = candidates[kept - 1]
            self.visited.append(self.ids)
        return float(losses[kept])

    def _candidates(self, draws: Draws) -> list[list[int]]:
        """Texts with one token replaced, drawn among those whose first-order estimate of the loss is lowest."""
        tables = self.model.token_embeddings()
        gradient = token_gradient(self.model, draws, {name: token_rows(t, self.ids) for name, t in tables.items()})
        slopes = [_slopes(tables[name], g) for name, g in gradient.items()]
        slope = torch.stack(slopes).sum(0)[self.usable].T
        best = self.usable[slope.topk(min(BEST, len(self.usable)), dim=1, largest=False).indices]
        found: list[list[int]] = []
        for _ in range(4 * self.budget.candidates):  # some are drawn twice, or read back as other tokens
            place = int(torch.randint(len(self.ids), (), generator=self.generator))
            ids = [*self.ids[:place], int(self._pick(best[place])), *self.ids[place + 1 :]]
            if ids != self.ids and ids not in found and self._reads_back(ids):
                found.append(ids)
            if len(found) == self.budget.candidates:
                break
        return found

    @torch.no_grad()
    def _losses(self, texts: list[list[int]], sets: list[Draws]) -> torch.Tensor:
        """The mean loss of each text over the same sets of draws. Raises ForgetError where it is not finite."""
        losses = torch.stack([torch.stack([d.loss(self.model, self.text(t)) for d in sets]).mean() for t in texts])
        if not torch.isfinite(losses).all():
            raise ForgetError("Expected a finite loss, got NaN or infinity. Use fp32, or another patch.")
        return losses.cpu()

    def best(self) -> str:
        """The text, among all that were kept on the way, with the lowest loss on draws that are the same for all of them."""
        b = self.budget
        sets = [draw(self.model, self.references, self.templates, b.batch, self.generator) for _ in range(FINAL_SETS)]
        return self.text(self.visited[int(self._losses(self.visited, sets).argmin())])
