"""What a patch's metadata may say: the form of every field, checked when a file is read, since any tool or stranger may have written it.

A field of another form counts as absent; what this tool wrote passes unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from .concept import unpacked_vectors
from .limits import LONGEST_LINE, LONGEST_PHRASE, MOST_LINES, MOST_NAMES, MOST_PHRASES, MOST_TEMPLATES, is_unicode
from .patch import ABOUT
from .templates import KINDS, check_templates
from .tokens import END_TOKEN_CHOICES

# Characters of a field's JSON: the vectors of inverted concepts are long, and so are the losses of a long training.
LONGEST_FIELD, LONGEST_CONCEPTS = 4_000_000, 12_000_000
LONGEST_PREVIEW = 1_000_000
LARGEST_NUMBER = 1e30
DEEPEST = 8
_WIDEST, _MOST_LAYERS = 1_000_000, 10_000


def _one_line(text: str) -> str:
    if len(text.splitlines()) > 1 or not is_unicode(text):
        raise ValueError("expected one line of Unicode text")
    return text


def _valid_templates(templates: list[str]) -> list[str]:
    return check_templates(templates)  # ForgetError is a ValueError, which pydantic reports


def _vectors(saved: dict[str, Any]) -> dict[str, Any]:
    """Vectors as concept.packed_vectors packs them, without anything that a stranger put beside them."""
    if unpacked_vectors(saved) is None or not all(type(n) is int for n in saved["shape"]):
        raise ValueError("expected the shape of vectors, and float32 in base64")
    return {"shape": saved["shape"], "float32": saved["float32"]}


def _finite(value: float) -> float:
    if not abs(value) <= LARGEST_NUMBER:
        raise ValueError("expected a finite number of usual size")
    return value


def _one_of(choices: tuple[str, ...]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return value

    return AfterValidator(check)


def _tree(value: Any, depth: int = 0) -> Any:
    """JSON of bounded depth with finite numbers of usual size and texts of bounded length."""
    if isinstance(value, dict):
        fits = depth < DEEPEST and all(len(k) <= LONGEST_PHRASE and is_unicode(k) for k in value)
        children = list(value.values())
    elif isinstance(value, list):
        fits, children = depth < DEEPEST, value
    elif isinstance(value, str):
        fits, children = len(value) <= LONGEST_LINE and is_unicode(value), []
    else:
        fits, children = value is None or abs(value) <= LARGEST_NUMBER, []
    if not fits:
        raise ValueError("expected finite numbers and texts of bounded length, not nested deeply")
    for child in children:
        _tree(child, depth + 1)
    return value


Label = Annotated[str, StringConstraints(max_length=200, strict=True), AfterValidator(_one_line)]
Phrase = Annotated[str, StringConstraints(max_length=LONGEST_PHRASE, strict=True), AfterValidator(_one_line)]
Line = Annotated[str, StringConstraints(max_length=LONGEST_LINE, strict=True), AfterValidator(_one_line)]
Text = Annotated[str, StringConstraints(max_length=LONGEST_LINE, strict=True), AfterValidator(lambda t: _tree(t))]
# An int stays one, so that a file that is read and saved again says the same.
Number = Annotated[Annotated[int, Strict()] | Annotated[float, Strict()], AfterValidator(_finite)]
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Tree = Annotated[Any, AfterValidator(_tree)]
Vectors = Annotated[dict[str, Any], AfterValidator(_vectors)]


class ConceptRecord(BaseModel):
    """One concept as Concept.as_dict and correct_concept describe it; unknown keys are dropped."""

    model_config = ConfigDict(extra="ignore")

    phrases: Annotated[list[Phrase], Field(max_length=MOST_PHRASES)]
    kind: Annotated[str, _one_of(KINDS)] = "object"
    templates: Annotated[list[Line], Field(max_length=MOST_TEMPLATES), AfterValidator(_valid_templates)] = []
    end_token: Annotated[str, _one_of(END_TOKEN_CHOICES)] = "first"
    vectors: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1
    embedding: Annotated[dict[Literal["l", "h", "g"], Vectors], Field(min_length=1)] | None = None
    corrects: Phrase | None = None
    contexts: Annotated[list[Phrase], Field(max_length=MOST_PHRASES)] = []

    @model_validator(mode="after")
    def _says_what(self) -> ConceptRecord:
        if self.corrects and not self.contexts:
            raise ValueError("expected contexts of the word that is corrected")
        return self


class PartRecord(BaseModel):
    """One of several patches side by side, as parts.description describes it."""

    model_config = ConfigDict(extra="ignore")

    concepts: Annotated[int, Field(ge=1, le=MOST_NAMES, strict=True)]
    ranks: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=1_000_000, strict=True)]], Field(min_length=1, max_length=_MOST_LAYERS)
    ]
    settings: Tree = {}
    figures: Tree = {}


_CONCEPTS = TypeAdapter(Annotated[list[ConceptRecord], Field(max_length=MOST_NAMES)])
_PARTS = TypeAdapter(Annotated[list[PartRecord], Field(max_length=MOST_NAMES)])
_TREE = TypeAdapter(Tree)
_TEXT = TypeAdapter(Text)
_BASE = {
    "architecture": TypeAdapter(Label),
    "context_dim": TypeAdapter(Annotated[int, Field(ge=1, le=_WIDEST, strict=True)]),
    "shapes": TypeAdapter(Annotated[list[Annotated[list[Count], Field(max_length=4)]], Field(max_length=_MOST_LAYERS)]),
    "norms": TypeAdapter(Annotated[list[Annotated[Number, Field(ge=0)]], Field(max_length=_MOST_LAYERS)]),
}
_SETTINGS = {
    "method": TypeAdapter(Label),
    "target": TypeAdapter(Label),
    "substitute": TypeAdapter(Phrase),
    "preserve_prompts": TypeAdapter(Annotated[list[Line], Field(max_length=MOST_LINES)]),
}
_FIGURES = {
    **dict.fromkeys(
        ("held_out_missed", "held_out_drift", "preserve_drift", "shrink_residual", "ridge", "preserve_weight"),
        TypeAdapter(Number),
    ),
    **dict.fromkeys(("losses", "mass"), TypeAdapter(list[Number])),
    "drift": TypeAdapter(list[Annotated[list[Number], Field(min_length=2, max_length=2)]]),
}


def read_concepts(text: str) -> list[dict[str, Any]]:
    """The concepts in `fmn.concepts`; empty unless every one of them is well-formed, so that none goes unmentioned."""
    records = _validated(_CONCEPTS, _json(text, LONGEST_CONCEPTS), [])
    if sum(max(1, len(record.phrases)) for record in records) > MOST_NAMES:
        return []
    return [record.model_dump(exclude_unset=True) for record in records]


def read_parts(text: str) -> list[dict[str, Any]]:
    """The parts in `fmn.parts`; empty unless every one of them is well-formed."""
    return [record.model_dump(exclude_unset=True) for record in _validated(_PARTS, _json(text), [])]


def read_base(text: str) -> dict[str, Any]:
    """The fingerprint in `fmn.base`: those of its fields that are well-formed."""
    found = _fields(_json(text), _BASE, None)
    if "shapes" in found and len(found.get("norms", [])) not in (0, len(found["shapes"])):
        del found["norms"]
    return found


def read_settings(text: str) -> dict[str, Any]:
    """The settings in `fmn.settings`: those that are well-formed; ones that this version does not know are kept."""
    return _fields(_json(text), _SETTINGS, _TREE)


def read_figures(text: str) -> dict[str, Any]:
    """The figures in `fmn.figures`: those that are well-formed; ones that this version does not know are kept."""
    return _fields(_json(text), _FIGURES, _TREE)


def read_about(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the maker says of a patch, by the names in ABOUT."""
    said = _fields(_json(metadata.get("fmn.about", "")), dict.fromkeys(set(ABOUT) - {"preview"}, _TEXT), None)
    preview = metadata.get(ABOUT["preview"], "")
    return said | ({"preview": preview} if preview and len(preview) <= LONGEST_PREVIEW else {})


def _fields(value: Any, known: Mapping[str, TypeAdapter], other: TypeAdapter | None) -> dict[str, Any]:
    """The well-formed fields of an object; unknown ones by `other`, or dropped."""
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, field in value.items():
        adapter = known.get(key, other)
        if adapter is not None and len(key) <= LONGEST_PHRASE and is_unicode(key):
            found[key] = _validated(adapter, field, ...)
    return {key: field for key, field in found.items() if field is not ...}


def _validated(adapter: TypeAdapter, value: Any, default: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return default


def _json(text: str, longest: int = LONGEST_FIELD) -> Any:
    """The value of a JSON text; None where it is none, too long, or holds lone surrogates."""
    if len(text) > longest:
        return None
    try:
        return from_json(text)
    except ValueError:
        return None
