"""Text entries: the linear maps of a model that text enters, and what each of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from .layers import TEXT_PROJECTIONS, TextProjections
from .lazy import LazySequence

if TYPE_CHECKING:
    from .protocol import CrossAttention, ForgetModel

Reads = Literal["context", "pooled"]
CONTEXT: Reads = "context"
POOLED: Reads = "pooled"


# Ends of the names, in files, of layers that read the pooled embedding: SDXL's in the original model and in diffusers, FLUX's.
_POOLED_NAMES = ("label_emb_0_0", "add_embedding_linear_1", "vector_in_in_layer")


def reads_of(name: str) -> Reads:
    """What the layer of a patch reads, by the layer's name in files."""
    return POOLED if name.endswith(_POOLED_NAMES) else CONTEXT


@dataclass(frozen=True)
class TextEntry:
    """A linear map of the model that reads text as it comes from the text encoders.

    Attributes
    ----------
    layer, projection
        Its name, as in ForgetModel.weights; the projection may be empty.
    reads
        "context": every row of a prompt's context. "pooled": the pooled embedding of the prompt.
    columns
        Leading columns of its input that are text, where others follow, such as the sizes of SDXL; None: all.
    """

    layer: str
    projection: str
    reads: Reads = CONTEXT
    columns: int | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Layer and projection."""
        return self.layer, self.projection

    @property
    def path(self) -> str:
        """Path of the layer's module."""
        return ".".join(part for part in self.name if part)


def attention_entries(layers: Sequence[CrossAttention]) -> list[TextEntry]:
    """The keys and values of cross-attention layers."""
    both = TEXT_PROJECTIONS["keys and values"]
    return [TextEntry(layer.name, projection) for layer in layers for projection in both]


def chosen_entries(model: ForgetModel, reads: Reads, train: TextProjections) -> list[TextEntry]:
    """The entries that a solve changes: those of cross-attention by projection, all others always."""
    unchosen = set(TEXT_PROJECTIONS["keys and values"]) - set(TEXT_PROJECTIONS[train])
    return [entry for entry in model.text_entries() if entry.reads == reads and entry.projection not in unchosen]


def text_weights(
    model: ForgetModel, entries: Sequence[TextEntry], device: torch.device | str
) -> LazySequence[torch.Tensor]:
    """Effective weights (out, columns) of entries, without columns that read anything but text; computed on access."""
    weights = model.weights([entry.name for entry in entries], device)
    return LazySequence(len(entries), lambda n: weights[n][:, : entries[n].columns])
