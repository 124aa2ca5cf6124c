"""Node inputs made from the fields of option classes, which hold each default, range and help text once."""

from __future__ import annotations

from typing import Any

from ...fmn_core.options import OptionInfo, describe
from ..host.node_api import io

LARGEST = {int: 2**31 - 1, float: 1e9}


def option_inputs(cls: type, *names: str, **changes: Any) -> list[Any]:
    """Inputs for several options of a class made by `fmn_core.options.options`; `changes` apply to each, as in option_input."""
    return [option_input(cls, name, **changes) for name in names]


def option_input(cls: type, name: str, input_name: str = "", **changes: Any) -> Any:
    """Input for one option.

    Parameters
    ----------
    cls, name
        The option class and the name of its field.
    input_name
        Id of the input; empty: the name of the field.
    changes
        Arguments of the input that differ from the class in this node, such as `default` or `tooltip`.
    """
    info = describe(cls)[name]
    identifier = input_name or name
    shared: dict[str, Any] = {"default": info.default, "tooltip": info.help}
    if info.choices:
        return io.Combo.Input(identifier, **{**shared, "options": list(info.choices), **changes})
    if info.kind is bool:
        return io.Boolean.Input(identifier, **{**shared, **changes})
    if info.kind is str:
        return io.String.Input(identifier, **{**shared, **changes})
    if info.kind is list:
        return io.String.Input(identifier, **{**shared, "default": "", "multiline": True, **changes})
    return _number_input(identifier, info, shared, changes)


def fine_input(cls: type, name: str, input_name: str = "", **changes: Any) -> Any:
    """Input for a number that the page must not round to its step, such as a learning rate."""
    return option_input(cls, name, input_name, round=False, **changes)


def _number_input(identifier: str, info: OptionInfo, shared: dict[str, Any], changes: dict[str, Any]) -> Any:
    limits = {
        "min": 0 if info.minimum is None else info.kind(info.minimum),
        "max": LARGEST[info.kind] if info.maximum is None else info.kind(info.maximum),
        "step": info.step,
    }
    kind = io.Int if info.kind is int else io.Float
    return kind.Input(identifier, **{**shared, **limits, **changes})
