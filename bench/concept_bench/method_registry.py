"""Every method of ConceptBench by name: this pack's, and the peers of bench/peers where that package exists."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator

from bench.methods import Applied, by_gradient, closed_form, gated, hardened
from bench.names import names_of
from bench.world import World
from fmn_core.compose.side_by_side import side_by_side
from fmn_core.patch.file import patch_bytes

NOTHING = "nothing forgotten"
# Method(world, *names, seed=0) gives a context in which the names are forgotten.
Method = Callable[..., contextlib.AbstractContextManager[Applied]]


@contextlib.contextmanager
def nothing_forgotten(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    yield Applied(world.model)


def closed_form_default(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """Train Forget Patch as it stands, nothing listed to preserve. It draws nothing, so the seed changes nothing."""
    return closed_form(lambda _: [])(world, *names)


def closed_form_hardened(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The same with two attack rounds: see Closed Form Options. Its searches draw from other seeds than those of the table's attack."""
    return hardened(rounds=2, seed=seed)(world, *names)


def closed_form_listed(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The same with all other concepts of the same kind listed to preserve."""
    return closed_form(lambda _: names_of(world).others_of_kind(names))(world, *names)


def closed_form_substitute(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """The same with a named substitute: see Names.substitute."""
    known = names_of(world)
    settings = {"target": "substitute", "substitute": known.substitute(names[0])}
    return closed_form(lambda _: known.others_of_kind(names), **settings)(world, *names)


@contextlib.contextmanager
def closed_form_gated(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    """The default's patch of each concept, several side by side, through Gated Forget Patch with the thresholds that it finds.

    There is no MODEL to attack.
    """
    yield from _gated(world, names, closed_form_default)


@contextlib.contextmanager
def closed_form_substitute_gated(world: World, *names: str, seed: int = 0) -> Iterator[Applied]:
    """The same of patches with a named substitute."""
    yield from _gated(world, names, closed_form_substitute)


def _gated(world: World, names: tuple[str, ...], method: Method) -> Iterator[Applied]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(method(world, name)) for name in names]
        patch, size = made[0].patch, made[0].patch_bytes
        if len(made) > 1:
            patch = side_by_side([m.patch for m in made]).as_stored()
            size = len(patch_bytes(patch))
        seconds = sum(m.seconds for m in made)
        yield Applied(sampler=gated(world, patch), seconds=seconds, patch_bytes=size, patch=patch)


def re_steering(world: World, *names: str, seed: int = 0) -> contextlib.AbstractContextManager[Applied]:
    """Attention re-steering by gradient with the node's defaults, nothing listed to preserve."""
    return by_gradient(lambda _: [], rank=16, seed=seed)(world, *names)


OURS: dict[str, Method] = {
    NOTHING: nothing_forgotten,
    "closed form": closed_form_default,
    "closed form, hardened": closed_form_hardened,
    "closed form, listed": closed_form_listed,
    "closed form, listed, substitute": closed_form_substitute,
    "closed form, gated": closed_form_gated,
    "closed form, listed, substitute, gated": closed_form_substitute_gated,
    "re-steering": re_steering,
}


def all_methods() -> dict[str, Method]:
    """Ours and the peers."""
    spec = importlib.util.find_spec("bench.peers")
    if spec is None or spec.origin is None:
        return dict(OURS)
    from bench.peers import PEERS

    return {**OURS, **PEERS}
