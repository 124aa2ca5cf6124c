"""Option classes: frozen, checked dataclasses that hold each option's default, range and help text in one place."""

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
    """Declares a field of an option class.

    Parameters
    ----------
    default
        The default value, or a callable such as `list` that makes a new one each time.
    help
        One or two sentences for the user, which nodes show as a tooltip.
    minimum, maximum
        Range of a number, both ends included.
    step
        Change of the number with one click in a node. Values between two steps are allowed.

    Notes
    -----
    A field with choices is annotated with a Literal of them. A number annotated as `pydantic.StrictInt` takes no text and no
    boolean. All arguments are keywords, because type checkers recognise a default only then.
    """
    default_argument: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return pydantic.Field(
        **default_argument, ge=minimum, le=maximum, description=help, json_schema_extra={"step": step}
    )


@dataclass_transform(frozen_default=True, field_specifiers=(option,))
def options(cls: type[T]) -> type[T]:
    """Turns a class into a frozen dataclass that checks its values.

    Raises
    ------
    ForgetError
        By the constructor and `dataclasses.replace`, on a value of another type or out of range, and on an unknown option.

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
    checked_class: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked_init = checked_class.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked_init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ForgetError(_message(checked_class, error.errors()[0])) from None

    checked_class.__init__ = init
    return checked_class


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """One option as nodes and documentation show it.

    Attributes
    ----------
    kind
        The value's type; `str` where there are choices.
    choices
        The allowed texts; empty where any value in the range is allowed.
    """

    name: str
    kind: type
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    step: float | None
    choices: tuple[str, ...]


def describe(cls: type) -> dict[str, OptionInfo]:
    """Lists the options of an option class by name, in their order."""
    hints = get_type_hints(cls)
    return {name: _option_info(name, hints[name], field) for name, field in cls.__pydantic_fields__.items()}  # type: ignore[attr-defined]


def _option_info(name: str, hint: Any, field: Any) -> OptionInfo:
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    bounds = {end: getattr(limit, end) for limit in field.metadata for end in ("ge", "le") if hasattr(limit, end)}
    step = (field.json_schema_extra or {}).get("step")
    default = field.get_default(call_default_factory=True)
    kind = str if choices else get_origin(hint) or hint
    return OptionInfo(name, kind, default, field.description or "", bounds.get("ge"), bounds.get("le"), step, choices)


def _message(cls: type, details: Any) -> str:
    """Error message for one of pydantic's error details: the expected value and the value that came."""
    infos, location, got = describe(cls), details["loc"][0], details["input"]
    # Positional arguments have a number for a location.
    name = list(infos)[location] if isinstance(location, int) and location < len(infos) else str(location)
    if name not in infos:
        return f"Expected an option of {cls.__name__} ({', '.join(infos)}), got {name!r}. Check its spelling."
    info = infos[name]
    if info.choices:
        return f"Expected {name} to be one of {', '.join(info.choices)}, got {got!r}."
    if info.kind in (int, float) and (info.minimum is not None or info.maximum is not None):
        return f"Expected {name} {_range_text(info)}, got {got!r}."
    return f"Expected {name} as {info.kind.__name__}, got {got!r}."


def _range_text(info: OptionInfo) -> str:
    low, high = (-math.inf if info.minimum is None else info.minimum), info.maximum
    return f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
