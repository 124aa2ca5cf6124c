"""The list of cases: functions from a world to what is compared with the CPU's, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CASES: dict[str, Callable[[Any], dict[str, Any]]] = {}


def case(function: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    CASES[function.__name__] = function
    return function
