"""Options as frozen dataclasses: one place for an option's default, range and help text."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
import pydantic.dataclasses

from .errors import ForgetError

T = TypeVar("T")


def option(
    *, default: Any, help: str, minimum: float | None = None, maximum: float | None = None, step: float | None = None
) -> Any:
    """A field of a class that `options` makes; its choices, if it has any, are the Literal that it is annotated with.

    `default` and `help` are given by keyword, which type checkers ask for.

    Parameters
    ----------
    default
        The value where nothing is chosen; a callable such as `list` makes a new one each time.
    help
        One or two sentences for the user, which nodes show as a tooltip.
    minimum, maximum
        Range of a number, both ends included.
    step
        What one click changes in a node. Values between two steps are allowed.
    """
    given: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return pydantic.Field(**given, ge=minimum, le=maximum, description=help, json_schema_extra={"step": step})


@dataclass_transform(frozen_default=True, field_specifiers=(option,))
def options(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass that checks its values.

    Raises
    ------
    ForgetError
        From the class's constructor and `dataclasses.replace`, on a value of another type or out of range, and on a name that is no option.

    Examples
    --------
    >>> @options
    ... class Sampling:
    ...     steps: int = option(default=20, help="Sampling steps.", minimum=1, maximum=100)
    >>> Sampling(steps=0)
    Traceback (most recent call last):
    ForgetError: Expected steps from 1 to 100, got 0.
    """
    config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked_init = made.__init__

    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            checked_init(self, *args, **values)
        except pydantic.ValidationError as error:
            raise ForgetError(_sentence(made, error.errors()[0])) from None

    made.__init__ = init
    return made


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """What a node or a page of documentation needs to know of one option."""

    name: str
    kind: type
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    step: float | None
    choices: tuple[str, ...]


def describe(cls: type) -> dict[str, OptionInfo]:
    """Every option of a class made by `options`, by name and in its order."""
    hints = get_type_hints(cls)
    return {name: _info(name, hints[name], field) for name, field in cls.__pydantic_fields__.items()}  # type: ignore[attr-defined]


def _info(name: str, hint: Any, field: Any) -> OptionInfo:
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    bounds = {k: getattr(m, k) for m in field.metadata for k in ("ge", "le") if hasattr(m, k)}
    step = (field.json_schema_extra or {}).get("step")
    default = field.get_default(call_default_factory=True)
    kind = str if choices else get_origin(hint) or hint
    return OptionInfo(name, kind, default, field.description or "", bounds.get("ge"), bounds.get("le"), step, choices)


def _sentence(cls: type, details: Any) -> str:
    """What was expected, and what came, of the first value that is wrong."""
    known, place, got = describe(cls), details["loc"][0], details["input"]
    name = list(known)[place] if isinstance(place, int) and place < len(known) else str(place)
    if name not in known:
        return f"Expected an option of {cls.__name__} ({', '.join(known)}), got {name!r}. Check its spelling."
    info = known[name]
    if info.choices:
        return f"Expected {name} to be one of {', '.join(info.choices)}, got {got!r}."
    if info.kind in (int, float) and (info.minimum is not None or info.maximum is not None):
        return f"Expected {name} {_range(info)}, got {got!r}."
    return f"Expected {name} as {info.kind.__name__}, got {got!r}."


def _range(info: OptionInfo) -> str:
    low, high = (-math.inf if info.minimum is None else info.minimum), info.maximum
    return f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
