"""Types of metadata fields and readers for them that drop malformed fields.

Files come from strangers: a field of another form counts as absent, and what this tool wrote passes unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, Strict, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json

from .concept import unpacked_vectors
from .limits import LONGEST_LINE, LONGEST_PHRASE, is_unicode

# Characters of a field's JSON: the vectors of inverted concepts are long, and so are the losses of a long training.
LONGEST_FIELD = 4_000_000
LARGEST_NUMBER = 1e30
# Levels of objects and lists inside each other.
MAX_DEPTH = 8
MOST_LAYERS = 10_000
_MAX_WIDTH = 1_000_000


def _check_one_line(text: str) -> str:
    if len(text.splitlines()) > 1 or not is_unicode(text):
        raise ValueError("expected one line of Unicode text")
    return text


def _check_vectors(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the two fields of concept.packed_vectors, without any others."""
    if unpacked_vectors(record) is None or not all(type(n) is int for n in record["shape"]):
        raise ValueError("expected the shape of vectors, and float32 in base64")
    return {"shape": record["shape"], "float32": record["float32"]}


def _check_finite(value: float) -> float:
    if not abs(value) <= LARGEST_NUMBER:
        raise ValueError("expected a finite number of usual size")
    return value


def one_of(choices: tuple[str, ...]) -> AfterValidator:
    """A pydantic validator that accepts only the given texts."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return value

    return AfterValidator(check)


def _check_tree(value: Any, depth: int = 0) -> Any:
    """Returns JSON unchanged if its depth, numbers and texts keep to the limits above."""
    if isinstance(value, dict):
        fits = depth < MAX_DEPTH and all(len(k) <= LONGEST_PHRASE and is_unicode(k) for k in value)
        children = list(value.values())
    elif isinstance(value, list):
        fits, children = depth < MAX_DEPTH, value
    elif isinstance(value, str):
        fits, children = len(value) <= LONGEST_LINE and is_unicode(value), []
    else:
        fits, children = value is None or abs(value) <= LARGEST_NUMBER, []
    if not fits:
        raise ValueError("expected finite numbers and texts of bounded length, not nested deeply")
    for child in children:
        _check_tree(child, depth + 1)
    return value


Label = Annotated[str, StringConstraints(max_length=200, strict=True), AfterValidator(_check_one_line)]
Phrase = Annotated[str, StringConstraints(max_length=LONGEST_PHRASE, strict=True), AfterValidator(_check_one_line)]
Line = Annotated[str, StringConstraints(max_length=LONGEST_LINE, strict=True), AfterValidator(_check_one_line)]
Text = Annotated[str, StringConstraints(max_length=LONGEST_LINE, strict=True), AfterValidator(lambda t: _check_tree(t))]
# An int stays an int, so that a file that is read and saved again has the same bytes.
Number = Annotated[Annotated[int, Strict()] | Annotated[float, Strict()], AfterValidator(_check_finite)]
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Tree = Annotated[Any, AfterValidator(_check_tree)]
Vectors = Annotated[dict[str, Any], AfterValidator(_check_vectors)]

_FINGERPRINT = {
    "architecture": TypeAdapter(Label),
    "context_dim": TypeAdapter(Annotated[int, Field(ge=1, le=_MAX_WIDTH, strict=True)]),
    "shapes": TypeAdapter(Annotated[list[Annotated[list[Count], Field(max_length=4)]], Field(max_length=MOST_LAYERS)]),
    "norms": TypeAdapter(Annotated[list[Annotated[Number, Field(ge=0)]], Field(max_length=MOST_LAYERS)]),
}


def read_fingerprint(text: str) -> dict[str, Any]:
    """Parses the fingerprint of a base model from the text of the metadata field `fmn.base`.

    Returns
    -------
    The well-formed fields of the fingerprint. Norms are left out where their number is not that of the shapes.
    """
    fingerprint = valid_fields(parse_json(text), _FINGERPRINT)
    if "shapes" in fingerprint and len(fingerprint.get("norms", [])) not in (0, len(fingerprint["shapes"])):
        del fingerprint["norms"]
    return fingerprint


def valid_fields(value: Any, known: Mapping[str, TypeAdapter], unknown: TypeAdapter | None = None) -> dict[str, Any]:
    """Returns the fields of an object that have the right type.

    Parameters
    ----------
    value
        Parsed JSON. Anything but an object has no fields.
    known
        The type of each known field, by name.
    unknown
        The type of all other fields; None drops them.
    """
    if not isinstance(value, dict):
        return {}
    fields = {}
    for key, field in value.items():
        adapter = known.get(key, unknown)
        if adapter is not None and len(key) <= LONGEST_PHRASE and is_unicode(key):
            fields[key] = valid_or_default(adapter, field, ...)
    return {key: field for key, field in fields.items() if field is not ...}


def valid_or_default(adapter: TypeAdapter, value: Any, default: Any) -> Any:
    """The value if it has the adapter's type, else the default."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return default


def parse_json(text: str, longest: int = LONGEST_FIELD) -> Any:
    """Parses JSON; returns None on malformed JSON, a text longer than `longest` characters, and lone surrogates."""
    if len(text) > longest:
        return None
    try:
        return from_json(text)
    except ValueError:
        return None
