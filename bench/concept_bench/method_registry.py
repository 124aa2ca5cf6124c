"""Methods of ConceptBench by name: this pack's methods, and the peers where the package bench.peers exists."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator

from bench.concept_bench.concepts import MINIATURE_FLUX
from bench.methods import Applied, by_gradient, closed_form, gated_sampler, hardened
from bench.names import names_of
from bench.world import World
from fmn_core.compose.side_by_side import side_by_side
from fmn_core.patch.file import patch_bytes

NOTHING = "nothing forgotten"
# method(world, *names, seed=0): a context in which the names are forgotten.
SeededMethod = Callable[..., contextlib.AbstractContextManager[Applied]]


@contextlib.contextmanager
def nothing_forgotten(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    """The untouched model, as a baseline."""
    yield Applied(world.model)


def closed_form_default(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """Train Forget Patch at its defaults, nothing listed to preserve; the seed has no effect."""
    return closed_form(lambda _: [])(world, *names)


def closed_form_hardened(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The closed form with two attack rounds; their searches have other seeds than the attacks of the table."""
    return hardened(rounds=2, seed=seed)(world, *names)


def closed_form_listed(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The closed form with all other concepts of the same kind listed to preserve."""
    return closed_form(lambda _: names_of(world).others_of_kind(names))(world, *names)


def closed_form_substitute(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The listed closed form with a named substitute as target, see Names.substitute."""
    lookup = names_of(world)
    settings = {"target": "substitute", "substitute": lookup.substitute(names[0])}
    return closed_form(lambda _: lookup.others_of_kind(names), **settings)(world, *names)


@contextlib.contextmanager
def closed_form_gated(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    """The default's patches, side by side, behind Gated Forget Patch; there is no MODEL to attack."""
    yield from _gated(world, names, closed_form_default)


@contextlib.contextmanager
def closed_form_substitute_gated(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    """Patches of the listed closed form with a substitute, side by side, behind Gated Forget Patch."""
    yield from _gated(world, names, closed_form_substitute)


def _gated(world: World, names: tuple[str, ...], method: SeededMethod) -> Iterator[Applied]:
    with contextlib.ExitStack() as stack:
        applied = [stack.enter_context(method(world, name)) for name in names]
        patch, size = applied[0].patch, applied[0].patch_bytes
        if len(applied) > 1:
            patch = side_by_side([a.patch for a in applied]).as_stored()
            size = len(patch_bytes(patch))
        seconds = sum(a.seconds for a in applied)
        yield Applied(sampler=gated_sampler(world, patch), seconds=seconds, patch_bytes=size, patch=patch)


def re_steering(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """Attention re-steering by gradient at the node's defaults, nothing listed to preserve."""
    return by_gradient(lambda _: [], rank=16, seed=seed)(world, *names)


PACK_METHODS: dict[str, SeededMethod] = {
    NOTHING: nothing_forgotten,
    "closed form": closed_form_default,
    "closed form, hardened": closed_form_hardened,
    "closed form, listed": closed_form_listed,
    "closed form, listed, substitute": closed_form_substitute,
    "closed form, gated": closed_form_gated,
    "closed form, listed, substitute, gated": closed_form_substitute_gated,
    "re-steering": re_steering,
}


def flux_methods() -> dict[str, SeededMethod]:
    """The methods that exist for FLUX.1: this pack's in closed form, and peers. ESD and Concept Ablation have the UNet's tuned settings."""
    from bench.peers import concept_ablation, esd, uce, uce_flux
    from bench.peers.applying import editing
    from bench.peers.settings import miniature_settings

    return {
        NOTHING: nothing_forgotten,
        "closed form": closed_form_default,
        "closed form, listed": closed_form_listed,
        "UCE": editing(uce_flux, lambda world: uce.Settings(last_row_only=True, preserve_scale=1.0)),
        "ESD": editing(esd, lambda world: miniature_settings("ESD-x")),
        "Concept Ablation": editing(concept_ablation, lambda world: miniature_settings("Concept Ablation")),
    }


def methods_of(model: str) -> dict[str, SeededMethod]:
    """The methods that exist for a model."""
    return flux_methods() if model == MINIATURE_FLUX else all_methods()


def all_methods() -> dict[str, SeededMethod]:
    """This pack's methods, then the peers."""
    spec = importlib.util.find_spec("bench.peers")
    if spec is None or spec.origin is None:
        return dict(PACK_METHODS)
    from bench.peers import PEERS

    return {**PACK_METHODS, **PEERS}
