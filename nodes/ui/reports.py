"""What a node tells the user in words."""

from __future__ import annotations

from collections.abc import Sequence

from ...fmn_core.closed_form.targets import ABLATED
from ...fmn_core.errors import plain_text
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.inversion import Inversion
from .destination import Saved


def of_training(patch: ForgetPatch, matched: int, file: Saved) -> str:
    """What a training did and measured, a line each."""
    f = patch.figures
    lines = [f"method: {patch.settings['method']}", f"forgets: {forgotten(patch)}"]
    lines += _closed_form(f) if "layers" in f else _gradient(f)
    if attack := patch.settings.get("attack"):
        each = f"{attack['searches']} searches of {attack['budget']['steps']} steps for each concept"
        rounds = f"{attack['rounds']} round{'s' if attack['rounds'] > 1 else ''}"
        lines.append(f"attacked in {rounds} by {each}; what they found is forgotten too")
    lines += _advice(patch)
    lines += [f"matched {matched} layers in {f['seconds']:.1f} s", *saved(file)]
    return "\n".join(lines)


def of_inversion(inversion: Inversion, file: Saved) -> str:
    """What an inversion learned and where it went, a line each."""
    f, path = inversion.figures, file.path
    count = len(next(iter(inversion.word.values())))
    lines = [f"{count} vectors, {f['steps']} steps, {f['seconds']:.1f} s", fifths("loss", f["losses"])]
    if path:
        lines.append(f"saved {path.name}: write embedding:{path.stem} in a prompt")
    elif not file.failure:
        lines.append("not saved: no file name")
    return "\n".join([*file.warning, *lines])


def _advice(patch: ForgetPatch) -> list[str]:
    """What a style's target leaves to chance, and what to do about it."""
    if patch.settings.get("target") != ABLATED or not any(c.get("kind") == "style" for c in patch.concepts):
        return []
    return ["without a style the model may draw any, seldom the forgotten one: Closed Form Options takes a substitute"]


def fifths(name: str, losses: Sequence[float]) -> str:
    """How a loss went, whose single values are noise: the means of its first and last fifth."""
    part = max(1, len(losses) // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    return f"{name}, first and last fifth: {first:.4g} -> {last:.4g}"


def forgotten(patch: ForgetPatch) -> str:
    """What a patch forgets, in words."""
    return plain_text("; ".join(_name(c) for c in patch.concepts)) or "unknown (no metadata)"


def _name(concept: dict) -> str:
    if concept.get("corrects"):
        return f"the dominant meaning of {concept['corrects']}; led to {', '.join(concept['contexts'])}"
    return ", ".join(concept["phrases"]) or "an inverted concept"


def _closed_form(f: dict) -> list[str]:
    # Keys that a logit shift moves have no target that could be missed.
    missed, drift = ([layer[k] for layer in f["layers"].values() if k in layer] for k in ("missed", "drift"))
    target = (
        f"share of the target missed: mean {sum(missed) / len(missed):.3f}, worst layer {max(missed):.3f}"
        if missed
        else ""
    )
    return [
        *([target] if target else []),
        f"preserve prompts moved by: mean {sum(drift) / len(drift):.4f}, worst layer {max(drift):.4f}",
        f"on held-out templates and prompts: missed {f['held_out_missed']:.3f}, moved {f['held_out_drift']:.4f}",
        f"rank {f['rank']}, energy left behind {f['rank_residual']:.1e}; lambda {f['ridge']:g}, preserve weight {f['preserve_weight']:g}; condition {f['condition']:.0e}",
    ]


def _gradient(f: dict) -> list[str]:
    lines = [
        f"steps: {f['steps']} ({f['stopped']}), learning rate {f['learning_rate']:.2g}, loss {f['losses'][0]:.4g} -> {f['losses'][-1]:.4g}",
        f"attention mass on the concept: {f['mass'][0]:.4f} -> {f['mass'][-1]:.4f}",
        f"preserve prompts' keys and values moved by {f['preserve_drift']:.4f}",
    ]
    if f["drift"]:
        lines.append(f"drift of preserve prompts' predictions: {f['drift'][-1][1]:.4f}")
    if f["rank_residual"]:
        lines.append(f"energy left behind by reducing whole weights to the rank: {f['rank_residual']:.3f}")
    return lines + [f"warning: {w}" for w in f["warnings"]]


def saved(file: Saved) -> list[str]:
    """Where a patch went, and its size; nothing where saving failed, see Saved.warning."""
    if file.path is None:
        return [] if file.failure else ["not saved: no file name"]
    return [f"saved {file.path.parent.name}/{file.path.name}, {file.path.stat().st_size / 1000:.0f} kB"]
