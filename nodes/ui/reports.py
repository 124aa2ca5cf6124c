"""Report texts of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

from ...fmn_core.closed_form.settings import FORGOTTEN
from ...fmn_core.closed_form.targets import ABLATED
from ...fmn_core.concepts.compounds import compounds_of
from ...fmn_core.errors import plain_text
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.inversion import Inversion
from .destination import SaveResult

# Up to these shares of the target missed and of drift, on what the solve has held out, the judge of the miniature saw none of seven things in
# their pictures afterwards, and lost at most 6 % of other things; with at least so many imagined words.
GONE, HARDLY_MOVED, LEAST_IMAGINED = 0.15, 0.2, 200
# Compounds that a report names at most.
MOST_COMPOUNDS = 12


def training_report(patch: ForgetPatch, matched: int, saved: SaveResult) -> str:
    """Report of a training: method, concepts, figures, advice and file.

    Parameters
    ----------
    matched
        Number of the model's layers that the patch changes.
    """
    figures = patch.figures
    lines = [f"method: {patch.settings['method']}", f"forgets: {forgotten(patch)}"]
    lines += _closed_form_lines(figures) if "layers" in figures else _gradient_lines(figures)
    if attack := patch.settings.get("attack"):
        searches = f"{attack['searches']} searches of {attack['budget']['steps']} steps for each concept"
        rounds = f"{attack['rounds']} round{'s' if attack['rounds'] > 1 else ''}"
        lines.append(f"attacked in {rounds} by {searches}; the patch also forgets the embeddings that they found")
    lines += _style_advice(patch) + _related_lines(patch)
    lines += [f"matched {matched} layers in {figures['seconds']:.1f} s", *saved_lines(saved)]
    return "\n".join(lines)


def verdict(patch: ForgetPatch) -> str:
    """Two sentences on a closed-form patch: how far the concepts are gone, and how far other prompts moved.

    Judged on templates and prompts that the solve has held out, by what the cross-attention makes of them, and not on pictures. Where
    less is kept than by default, such figures were seen to promise too much, so that they are given without a word of judgement.
    """
    missed, moved = patch.figures["held_out_missed"], patch.figures["held_out_drift"]
    judged = _keeps_as_by_default(patch.settings)
    gone = "gone" if judged and missed <= GONE else f"{missed:.0%} of the way is left"
    others = "hardly moved" if judged and moved <= HARDLY_MOVED else f"moved by {moved:.0%}"
    return plain_text(f"{forgotten(patch)}: {gone}. Other prompts: {others}.")


def _keeps_as_by_default(settings: dict) -> bool:
    enough = settings.get("imagined_words", 0) >= LEAST_IMAGINED and settings.get("vocabulary_words", 0) > 0
    return enough and bool(settings.get("use_everyday_captions")) and settings.get("synonyms") != FORGOTTEN


def inversion_report(inversion: Inversion, saved: SaveResult) -> str:
    """Report of an inversion: vectors, steps, loss and file."""
    figures, path = inversion.figures, saved.path
    count = len(next(iter(inversion.embedding.values())))
    lines = [
        f"{count} vectors, {figures['steps']} steps, {figures['seconds']:.1f} s",
        loss_trend("loss", figures["losses"]),
    ]
    if path:
        lines.append(f"saved {path.name}: write embedding:{path.stem} in a prompt")
    elif not saved.failure:
        lines.append("not saved: no file name")
    return "\n".join([*saved.warning, *lines])


def _style_advice(patch: ForgetPatch) -> list[str]:
    """Advice to choose a substitute, where a style is forgotten by leaving its name out of the prompt."""
    if patch.settings.get("target") != ABLATED or not any(c.get("kind") == "style" for c in patch.concepts):
        return []
    return ["without a style the model may draw any, seldom the forgotten one: Closed Form Options takes a substitute"]


def related_names(patch: ForgetPatch) -> dict[str, list[str]]:
    """What the page offers beside a report: `synonyms` to forget too, and `compounds` to keep that are not kept yet."""
    phrases = [phrase for concept in patch.concepts for phrase in concept.get("phrases", ())]
    listed = {line.lower() for line in patch.settings.get("preserve_prompts", ())}
    forgotten_too = {phrase.lower() for phrase in phrases}
    return {
        "synonyms": [word for word in patch.figures.get("synonyms", {}) if word not in forgotten_too],
        "compounds": [name for name in compounds_of(phrases) if name not in listed | forgotten_too][:MOST_COMPOUNDS],
    }


def _related_lines(patch: ForgetPatch) -> list[str]:
    """The words that act like the concept and the names that hold its name, and what to do with them."""
    related, lines = related_names(patch), []
    if related["synonyms"]:
        words = ", ".join(f"{word} ({patch.figures['synonyms'][word]:.2f})" for word in related["synonyms"])
        lines.append(f"words of this model that act like it: {words}; to forget one too, add it below the phrase")
    if kept := patch.figures.get("kept_names"):
        lines.append(f"kept, although the phrase is in it: {', '.join(kept)}")
    if related["compounds"]:
        names = ", ".join(related["compounds"])
        lines.append(f"other things named with it change too: {names}; to keep one, add it to the prompts to preserve")
    return [plain_text(line) for line in lines]


def loss_trend(name: str, losses: Sequence[float]) -> str:
    """One line with the means of a loss over its first and last fifth, because its single values are noise."""
    part = max(1, len(losses) // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    return f"{name}, first and last fifth: {first:.4g} -> {last:.4g}"


def forgotten(patch: ForgetPatch) -> str:
    """Names of the concepts that a patch forgets, as one line."""
    return plain_text("; ".join(_concept_name(c) for c in patch.concepts)) or "unknown (no metadata)"


def _concept_name(concept: dict) -> str:
    if concept.get("corrects"):
        return f"the dominant meaning of {concept['corrects']}; led to {', '.join(concept['contexts'])}"
    return ", ".join(concept["phrases"]) or "an inverted concept"


def _closed_form_lines(figures: dict) -> list[str]:
    layers = figures["layers"].values()
    missed, drift = ([layer[key] for layer in layers] for key in ("missed", "drift"))
    return [
        f"share of the target missed: mean {sum(missed) / len(missed):.3f}, worst layer {max(missed):.3f}",
        f"preserve prompts moved by: mean {sum(drift) / len(drift):.4f}, worst layer {max(drift):.4f}",
        f"on held-out templates and prompts: missed {figures['held_out_missed']:.3f}, moved {figures['held_out_drift']:.4f}",
        f"rank {figures['rank']}, energy left behind {figures['rank_residual']:.1e}; lambda {figures['ridge']:g}, "
        f"preserve weight {figures['preserve_weight']:g}; condition {figures['condition']:.0e}",
        *_encoding_line(figures.get("encoded")),
    ]


def _encoding_line(encoded: dict | None) -> list[str]:
    """What the text encoders had to do, which is most of the time where they are large; they keep it for the next run."""
    if not encoded:
        return []
    return [f"encoded {encoded['prompts']:,} prompts, {encoded['tokens']:,} tokens, in {encoded['seconds']:.1f} s"]


def _gradient_lines(figures: dict) -> list[str]:
    losses, mass = figures["losses"], figures["mass"]
    lines = [
        f"steps: {figures['steps']} ({figures['stopped']}), learning rate {figures['learning_rate']:.2g}, "
        f"loss {losses[0]:.4g} -> {losses[-1]:.4g}",
        f"attention mass on the concept: {mass[0]:.4f} -> {mass[-1]:.4f}",
        f"preserve prompts' keys and values moved by {figures['preserve_drift']:.4f}",
    ]
    if figures["drift"]:
        lines.append(f"drift of preserve prompts' predictions: {figures['drift'][-1][1]:.4f}")
    if figures["rank_residual"]:
        lines.append(f"energy left behind by reducing whole weights to the rank: {figures['rank_residual']:.3f}")
    return lines + [f"warning: {warning}" for warning in figures["warnings"]]


def saved_lines(saved: SaveResult) -> list[str]:
    """The file of a patch and its size; empty where saving failed, which SaveResult.warning reports."""
    if saved.path is None:
        return [] if saved.failure else ["not saved: no file name"]
    return [f"saved {saved.path.parent.name}/{saved.path.name}, {saved.path.stat().st_size / 1000:.0f} kB"]
