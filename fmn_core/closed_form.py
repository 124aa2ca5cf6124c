"""Forgetting in closed form: one ridge system for all layers, with the ablated prompt as target."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from .concept import Concept
from .errors import ForgetError
from .factors import weighted_range
from .model import ForgetModel
from .patch import Factors, ForgetPatch, fingerprint, kohya_name
from .templates import everyday_captions
from .tokens import EncodedPrompt, concept_columns

PROJECTIONS = {"values": ("to_v",), "keys and values": ("to_k", "to_v")}
AUTO = 0.0
# What `auto` chooses from: ridge relative to the mean eigenvalue, and the weight of preserve prompts.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
PRESERVE_WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)
# How much a moved preserve prompt counts against a missed target, both as relative errors.
DRIFT_PRICE = 3.0


@dataclass
class ClosedFormSettings:
    """What can be chosen; 0 means: chosen from the algebra alone (see choose_weights).

    `ridge`: lambda relative to the mean eigenvalue of the system. `preserve_weight`: weight of the preserve prompts'
    mean second moment against the concept's. `preservation`: how much drift counts when these two are chosen, 1 = as
    measured to be balanced. `rank`: upper bound; `tolerance`: energy that may be left behind.
    """

    train: str = "values"
    preservation: float = 1.0
    ridge: float = AUTO
    preserve_weight: float = AUTO
    rank: int = 32
    tolerance: float = 1e-3
    preserve_prompts: list[str] = field(default_factory=list)
    use_everyday_captions: bool = True


@dataclass
class Rows:
    """Token embeddings of the solve: sources C, targets C* and what is preserved P, all (n, dim) float64.

    `template_of` numbers the template of each row of C, so that templates can be held out.
    """

    source: torch.Tensor
    target: torch.Tensor
    preserve: torch.Tensor
    template_of: torch.Tensor


def ablated_pair(prompt: EncodedPrompt, ablated: EncodedPrompt, columns: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a prompt that name or follow the phrase, and where each should go.

    Phrase tokens go to zero; every later token goes to its counterpart in the prompt without the phrase, which stands
    as many places earlier as phrase tokens came before it. Tokens before the phrase are equal in both prompts,
    because the encoder is causal, and are left out. Returns source and target, (n, dim) each.
    """
    c, a, removed = prompt.context, ablated.context, set(columns)
    source, target, shift = [], [], 0
    for j in range(columns[0], c.shape[0]):
        source.append(c[j])
        if j in removed:
            shift += 1
            target.append(torch.zeros_like(c[j]))
        else:
            target.append(a[j - shift])
    return torch.stack(source), torch.stack(target)


def collect_rows(model: ForgetModel, concepts: list[Concept], preserve: list[str]) -> Rows:
    """Encodes every template with and without the phrase, and the preserve prompts.

    Raises ForgetError when a phrase is not found in its own prompt, or does not fit into one chunk.
    """
    texts, numbers = [], []
    for concept in concepts:
        for phrase in concept.phrases:
            for number, template in enumerate(concept.templates):
                texts.append((phrase, template.format(phrase), " ".join(template.format(" ").split())))
                numbers.append(number)
    flat = list(dict.fromkeys([t for _, full, ablated in texts for t in (full, ablated)] + preserve + [""]))
    encoded = dict(zip(flat, model.encode(flat)))
    sources, targets, template_of = [], [], []
    for (phrase, full, ablated), number in zip(texts, numbers):
        columns = phrase_columns(model, encoded[full], phrase)
        source, target = ablated_pair(encoded[full], encoded[ablated], columns)
        sources.append(source)
        targets.append(target)
        template_of += [number] * len(source)
    # The ablated prompts are where the model falls back to: they must stay what they are.
    kept = list(dict.fromkeys([*preserve, "", *(ablated for _, _, ablated in texts)]))
    return Rows(
        torch.cat(sources).double(),
        torch.cat(targets).double(),
        torch.cat([encoded[t].context for t in kept]).double(),
        torch.tensor(template_of),
    )


def phrase_columns(model: ForgetModel, prompt: EncodedPrompt, phrase: str) -> list[int]:
    """The phrase's own columns in a one-chunk prompt; raises ForgetError when there are none or more chunks."""
    if any(len(chunks) != 1 for chunks in prompt.tokens.values()):
        raise ForgetError(
            f"Expected prompts of at most 75 tokens, got a longer one: {prompt.text[:60]!r}... Shorten the phrase or the template."
        )
    ids = {encoder: [tokens] for encoder, tokens in model.phrase_tokens(phrase).items()}
    columns = concept_columns(prompt.tokens, ids, model.vocabulary, "none")
    if not columns:
        raise ForgetError(f"Phrase {phrase!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template.")
    return columns


@dataclass
class System:
    """Second moments of the solve; `metric` = mean over layers of W^T W, each layer scaled to norm 1."""

    cross: torch.Tensor  # (C* - C)^T C / n
    concept: torch.Tensor  # C^T C / n
    preserve: torch.Tensor  # P^T P / p

    @classmethod
    def of(cls, source: torch.Tensor, target: torch.Tensor, preserve: torch.Tensor) -> System:
        n, p = len(source), len(preserve)
        return cls((target - source).T @ source / n, source.T @ source / n, preserve.T @ preserve / p)

    def second_moment(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """M = lambda I + C^T C / n + w P^T P / p, lambda relative to the mean eigenvalue of the rest."""
        m = self.concept + preserve_weight * self.preserve
        dim = len(m)
        return m + ridge * m.trace() / dim * torch.eye(dim, dtype=m.dtype, device=m.device)

    def solve(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """E = (C* - C)^T C M^-1, so that dW = W E in every layer. (UCE's system; method: ablated-prompt target.)"""
        return torch.linalg.solve(self.second_moment(ridge, preserve_weight), self.cross.T).T


def relative_norm(x: torch.Tensor, reference: torch.Tensor, metric: torch.Tensor) -> float:
    """|x W^T| / |reference W^T| with metric = W^T W."""
    top = ((x @ metric) * x).sum().clamp_min(0)
    return float((top / ((reference @ metric) * reference).sum().clamp_min(1e-300)).sqrt())


def choose_weights(rows: Rows, metric: torch.Tensor, settings: ClosedFormSettings) -> tuple[float, float, dict]:
    """Chooses ridge and preserve weight by what they do to templates and preserve prompts left out of the solve.

    Half of the templates and half of the preserve rows are solved for; on the other half, the distance to the target
    |W'C - V*| / |WC - V*| and the drift |dW P| / |W P| are measured, and the sum of the squares, drift weighted by
    DRIFT_PRICE, decides. Nothing but the algebra is used, so the same rule serves models of any width.
    """
    fitted = rows.template_of % 2 == 0
    if fitted.all() or not fitted.any():
        fitted = torch.arange(len(rows.source)) % 2 == 0
    kept = (torch.arange(len(rows.preserve)) // 77) % 2 == 0
    system = System.of(rows.source[fitted], rows.target[fitted], rows.preserve[kept])
    source, target, preserve = rows.source[~fitted], rows.target[~fitted], rows.preserve[~kept]
    best: tuple[float, float, float, float, float] | None = None
    for ridge in RIDGES if settings.ridge == AUTO else (settings.ridge,):
        for weight in PRESERVE_WEIGHTS if settings.preserve_weight == AUTO else (settings.preserve_weight,):
            edit = system.solve(ridge, weight)
            missed = relative_norm(source + source @ edit.T - target, source - target, metric)
            drift = relative_norm(preserve @ edit.T, preserve, metric)
            score = missed**2 + (DRIFT_PRICE * settings.preservation * drift) ** 2
            if best is None or score < best[0]:
                best = (score, ridge, weight, missed, drift)
    assert best is not None
    _, ridge, weight, missed, drift = best
    return ridge, weight, {"held_out_missed": missed, "held_out_drift": drift, "ridge": ridge, "preserve_weight": weight}


def forget_closed_form(
    model: ForgetModel,
    concepts: list[Concept],
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
) -> ForgetPatch:
    """Solves for a patch that makes the model fall back on what a prompt says without the phrase.

    `progress(done, total, figures)` is called between the stages and may raise to interrupt. Raises ForgetError on
    input that cannot be used. Source: method of UCE with FMN's "natural fallback" as target.
    """
    settings = settings or ClosedFormSettings()
    if settings.train not in PROJECTIONS:
        raise ForgetError(f"Expected to train one of {', '.join(PROJECTIONS)}, got {settings.train!r}.")
    tick = progress or (lambda done, total, figures: None)
    started = time.perf_counter()
    tick(0, 4, {})
    preserve = [*settings.preserve_prompts, *(everyday_captions() if settings.use_everyday_captions else ())]
    preserve = without_concepts(model, concepts, preserve)
    rows = collect_rows(model, concepts, preserve)
    tick(1, 4, {})
    names = [(layer.name, p) for layer in model.cross_attention() for p in PROJECTIONS[settings.train]]
    weights = {name: model.weight(*name).double() for name in names}
    metric = torch.stack([w.T @ w / (w**2).sum() for w in weights.values()]).mean(0)
    ridge, preserve_weight, figures = choose_weights(rows, metric, settings)
    tick(2, 4, figures)
    system = System.of(rows.source, rows.target, rows.preserve)
    edit = system.solve(ridge, preserve_weight)
    basis, residual = weighted_range(edit, system.second_moment(ridge, preserve_weight), settings.tolerance, settings.rank)
    down = basis.T @ edit
    factors = {kohya_name(*name): balanced(w @ basis, down) for name, w in weights.items()}
    tick(3, 4, figures)
    figures |= {"rank": basis.shape[1], "rank_residual": residual, "layers": layer_figures(rows, weights, basis @ down)}
    figures["seconds"] = time.perf_counter() - started
    tick(4, 4, figures)
    base = fingerprint(model)
    return ForgetPatch(factors, [c.as_dict() for c in concepts], base, {"method": "closed form", **asdict(settings)}, rounded(figures))


def balanced(up: torch.Tensor, down: torch.Tensor) -> Factors:
    """Factors of equal norm, so that both survive half precision; alpha = rank."""
    scale = (down.norm() / up.norm().clamp_min(1e-30)).sqrt()
    return Factors((up * scale).float(), (down / scale.clamp_min(1e-30)).float(), float(down.shape[0]))


def layer_figures(rows: Rows, weights: dict[tuple[str, str], torch.Tensor], edit: torch.Tensor) -> dict[str, dict[str, float]]:
    """Per layer: share of the target missed, |W'C - V*| / |WC - V*|, and drift of preserve prompts, |dW P| / |W P|."""
    figures = {}
    missed, moved = rows.source + rows.source @ edit.T - rows.target, rows.preserve @ edit.T
    for (layer, projection), w in weights.items():
        metric = w.T @ w
        figures[f"{layer}.{projection}"] = {
            "missed": relative_norm(missed, rows.source - rows.target, metric),
            "drift": relative_norm(moved, rows.preserve, metric),
        }
    return figures


def without_concepts(model: ForgetModel, concepts: list[Concept], prompts: list[str]) -> list[str]:
    """Drops preserve prompts that name a concept to be forgotten: they would ask for both."""
    forgotten = [ids for c in concepts for p in c.phrases for ids in model.phrase_tokens(p).values()]

    def names_one(prompt: str) -> bool:
        ids = next(iter(model.phrase_tokens(prompt).values()), [])
        return any(phrase == ids[i : i + len(phrase)] for phrase in forgotten for i in range(len(ids)))

    return [p for p in dict.fromkeys(prompts) if not names_one(p)]


def rounded(value):
    """Figures to six significant digits, for a file that reads well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
