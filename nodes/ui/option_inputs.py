"""Node inputs made from the fields of option classes, so that a default and its help text stand in one place."""

from __future__ import annotations

from typing import Any

from ...fmn_core.options import OptionInfo, describe
from ..host.node_api import io

LARGEST = {int: 2**31 - 1, float: 1e9}


def option_inputs(cls: type, *names: str, optional: bool = False) -> list[Any]:
    """Inputs for options of a class made by fmn_core's `options`, in the order of `names`."""
    known = describe(cls)
    return [option_input(known[name], optional=optional) for name in names]


def option_input(info: OptionInfo, **changes: Any) -> Any:
    """The input of one option.

    Parameters
    ----------
    changes
        What this node shows in another way than the class says, such as `default` or `tooltip`.
    """
    shared: dict[str, Any] = {"default": info.default, "tooltip": info.help}
    if info.choices:
        return io.Combo.Input(info.name, **{**shared, "options": list(info.choices), **changes})
    if info.kind is bool:
        return io.Boolean.Input(info.name, **{**shared, **changes})
    if info.kind is str:
        return io.String.Input(info.name, **{**shared, **changes})
    if info.kind is list:
        return io.String.Input(info.name, **{**shared, "default": "", "multiline": True, **changes})
    return _number_input(info, shared, changes)


def _number_input(info: OptionInfo, shared: dict[str, Any], changes: dict[str, Any]) -> Any:
    limits = {
        "min": 0 if info.minimum is None else info.kind(info.minimum),
        "max": LARGEST[info.kind] if info.maximum is None else info.kind(info.maximum),
        "step": info.step or (1 if info.kind is int else 0.01),
    }
    if info.kind is int:
        return io.Int.Input(info.name, **{**shared, **limits, **changes})
    return io.Float.Input(info.name, **{**shared, **limits, "round": False, **changes})
