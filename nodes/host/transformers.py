"""Transformers of the host whose text entries are known: what each family reads, and from which text encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import CONTEXT, POOLED, TextEntry
from ...fmn_core.model.tokens import LAST_ROW, MEAN_ROW, PREVIOUS_ROW, ZERO_ROW, Nothing


@dataclass(frozen=True)
class Rows:
    """Rows of a context, one after another, that one text encoder gives, or several whose rows are joined along their width.

    Attributes
    ----------
    encoders
        Their names in the host.
    causal
        Whether a row depends on earlier tokens alone.
    nothing
        What the rows of a phrase become where it is left out, see EncodedPrompt.
    padding
        Padding rows to keep of each prompt: 0 where attention leaves them out, 1 where all of them are much alike. Otherwise they see the
        prompt and their place.
    """

    encoders: tuple[str, ...]
    causal: bool = False
    nothing: Nothing = LAST_ROW
    padding: int = 64


@dataclass(frozen=True)
class TransformerFamily:
    """What the closed form has to know of a family of transformers.

    Attributes
    ----------
    name
        Its name, for reports.
    classes
        Names of its classes in comfy.model_base. A host may lack some of them.
    rows
        What its context consists of.
    clip
        The CLIP that it takes, and how to load it, for messages.
    entries
        Pattern of the paths of the linear maps that read rows of the context.
    before
        Paths of the modules that each row passes before that, where a model has them; they count as part of the text encoder.
    pooled
        Path of the linear map that reads a pooled embedding; empty where there is none.
    pooled_of
        The text encoders of the pooled embedding.
    joint
        The module lists, in the order in which they run, whose blocks let rows of the context and of the picture attend to one another,
        the former first; empty where they do not, or where that is not known.
    text_stream
        Pattern of the paths of further layers whose inputs are rows of text: what a training changes besides the entries. Empty where
        models of the family cannot be trained.
    attention
        Pattern of the paths of all layers of attention.
    guidance
        The scale of classifier-free guidance that it is sampled with; None where any will do.
    one_by_one
        Whether the host cuts what follows a prompt, too, so that it cannot encode several at once.
    """

    name: str
    classes: tuple[str, ...]
    rows: tuple[Rows, ...]
    clip: str
    entries: str
    before: tuple[str, ...] = ()
    pooled: str = ""
    pooled_of: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    text_stream: str = ""
    attention: str = ""
    guidance: float | None = None
    one_by_one: bool = False

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders of its CLIP, those of the rows first."""
        return tuple(dict.fromkeys([*(name for rows in self.rows for name in rows.encoders), *self.pooled_of]))


_T5 = "t5xxl"
FAMILIES = (
    TransformerFamily(
        "FLUX.1", ("Flux",), (Rows((_T5,)),), "T5-XXL and CLIP-L: load both with DualCLIPLoader, type flux",
        "txt_in", pooled="vector_in.in_layer", pooled_of=("l",), joint=("double_blocks", "single_blocks"), guidance=1.0,
        text_stream=r"double_blocks\.\d+\.txt_attn\.qkv",
        attention=r"double_blocks\.\d+\.(txt|img)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]",
    ),
    # The model puts rows of zeros before its text.
    TransformerFamily(
        "FLUX.2 dev", ("Flux2",), (Rows(("mistral3_24b",), causal=True, nothing=ZERO_ROW),),
        "Mistral Small 3.2: load it with CLIPLoader, type flux2", "txt_in", ("txt_norm",),
    ),
    TransformerFamily(
        "FLUX.2 Klein 4B", ("Flux2",), (Rows(("qwen3_4b",), causal=True),), "Qwen3 4B: load it with CLIPLoader, type flux2",
        "txt_in", ("txt_norm",),
    ),
    TransformerFamily(
        "FLUX.2 Klein 9B", ("Flux2",), (Rows(("qwen3_8b",), causal=True),), "Qwen3 8B: load it with CLIPLoader, type flux2",
        "txt_in", ("txt_norm",),
    ),
    TransformerFamily(
        "Chroma", ("Chroma", "ChromaRadiance"), (Rows((_T5,)),), "T5-XXL: load it with CLIPLoader, type chroma", "txt_in",
        joint=("double_blocks", "single_blocks"),
    ),
    TransformerFamily(
        "SD 3", ("SD3",), (Rows(("l", "g"), causal=True), Rows((_T5,))),
        "CLIP-L, CLIP-G and T5-XXL: load them with TripleCLIPLoader", "context_embedder", pooled="y_embedder.mlp.0", pooled_of=("l", "g"),
        joint=("joint_blocks",), text_stream=r"joint_blocks\.\d+\.context_block\.attn\.qkv",
        attention=r"joint_blocks\.\d+\.(context|x)_block\.attn2?\.(qkv|proj)",
    ),
    TransformerFamily(
        "Qwen-Image", ("QwenImage",), (Rows(("qwen25_7b",), causal=True, nothing=PREVIOUS_ROW),),
        "Qwen2.5-VL 7B: load it with CLIPLoader, type qwen_image", "txt_in", ("txt_norm",),
    ),
    TransformerFamily(
        "Lumina 2", ("Lumina2",), (Rows(("gemma2_2b",), causal=True, nothing=PREVIOUS_ROW),),
        "Gemma 2 2B: load it with CLIPLoader, type lumina2", r"cap_embedder\.1", ("cap_embedder.0",),
    ),
    TransformerFamily(
        "Z-Image", ("Lumina2",), (Rows(("qwen3_4b",), causal=True, nothing=PREVIOUS_ROW),),
        "Qwen3 4B: load it with CLIPLoader, type lumina2", r"cap_embedder\.1", ("cap_embedder.0",),
    ),
    TransformerFamily(
        "Wan", ("WAN21", "WAN22", "WAN21_Vace"), (Rows(("umt5xxl",), padding=1),), "umT5-XXL: load it with CLIPLoader, type wan",
        r"(vace_)?blocks\.\d+\.cross_attn\.[kv]", ("text_embedding",),
    ),
    TransformerFamily(
        "PixArt", ("PixArt",), (Rows((_T5,), nothing=MEAN_ROW),), "T5-XXL: load it with CLIPLoader, type pixart",
        r"blocks\.\d+\.cross_attn\.kv_linear", ("y_embedder.y_proj",),
    ),
    TransformerFamily(
        "Cosmos Predict 2", ("CosmosPredict2",), (Rows((_T5,), padding=1),), "the old T5-XXL: load it with CLIPLoader, type cosmos",
        r"blocks\.\d+\.cross_attn\.[kv]_proj",
    ),
    TransformerFamily(
        "AuraFlow", ("AuraFlow",), (Rows(("pile_t5xl",), padding=1),), "Pile-T5-XL: load it with CLIPLoader", "cond_seq_linear",
    ),
    # Its c_embedder reads the mean of all rows: what holds of each row holds of their mean.
    TransformerFamily(
        "HunyuanVideo", ("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"), (Rows(("llama",), causal=True, nothing=PREVIOUS_ROW),),
        "Llama 3 8B and CLIP-L: load both with DualCLIPLoader, type hunyuan_video", r"txt_in\.(input_embedder|c_embedder\.in_layer)",
        pooled="vector_in.in_layer", pooled_of=("l",), one_by_one=True,
    ),
    TransformerFamily(
        "HunyuanImage 2.1", ("HunyuanImage21",), (Rows(("qwen25_7b",), causal=True, nothing=PREVIOUS_ROW),),
        "Qwen2.5-VL 7B: load it with DualCLIPLoader, type hunyuan_image", r"txt_in\.(input_embedder|c_embedder\.in_layer)",
    ),
    TransformerFamily(
        "LTXV", ("LTXV",), (Rows((_T5,), nothing=MEAN_ROW, padding=0),), "T5-XXL: load it with CLIPLoader, type ltxv",
        r"transformer_blocks\.\d+\.attn2\.to_[kv]", ("caption_projection",),
    ),
)  # fmt: skip


def transformer_families(patcher: Any) -> list[TransformerFamily]:
    """The families that a MODEL may be of, by its class. Lumina 2 and Z-Image have one class, and differ in their text encoder."""
    name = type(getattr(patcher, "model", None)).__name__
    known = hasattr(comfy.model_base, name) and type(patcher.model) is getattr(comfy.model_base, name)
    return [family for family in FAMILIES if known and name in family.classes]


def transformer_family(patcher: Any) -> TransformerFamily | None:
    """The first family that a MODEL may be of; None where it is none of FAMILIES."""
    return next(iter(transformer_families(patcher)), None)


def family_of_encoders(names: Iterable[str]) -> TransformerFamily | None:
    """The first family whose CLIP has exactly these text encoders."""
    wanted = set(names)
    return next((family for family in FAMILIES if set(family.encoders) == wanted), None)


def transformer_entries(patcher: Any, family: TransformerFamily) -> list[TextEntry]:
    """The text entries of a transformer: what reads its context, in the order of its modules, then what reads a pooled embedding."""
    modules = dict(patcher.model.diffusion_model.named_modules())
    entries = [TextEntry(path, "", CONTEXT) for path in modules if re.fullmatch(family.entries, path)]
    if family.pooled and family.pooled in modules:
        entries.append(TextEntry(family.pooled, "", POOLED))
    return entries


def joint_layers(patcher: Any) -> list[str] | None:
    """Names of the layers in which text and picture attend to one another, in the order of a forward pass.

    Returns
    -------
    The names, or None for a MODEL that is no transformer of FAMILIES.

    Raises
    ------
    ForgetError
        The MODEL is a transformer of FAMILIES whose attention is of another kind, or not known.
    """
    family = transformer_family(patcher)
    if family is None:
        return None
    if not family.joint:
        known = ", ".join(f.name for f in FAMILIES if f.joint)
        raise ForgetError(
            f"Expected a Stable Diffusion model or one of {known}, whose attention to a phrase can be taken, got {family.name}. Use Forget "
            "Concept for this model."
        )
    blocks = patcher.model.diffusion_model
    return [f"{name}.{n}" for name in family.joint for n in range(len(getattr(blocks, name)))]


def require_trainable(patcher: Any) -> None:
    """Raises ForgetError on a transformer of FAMILIES that cannot be trained by gradient."""
    family = transformer_family(patcher)
    if family is not None and not family.text_stream:
        known = ", ".join(f.name for f in FAMILIES if f.text_stream)
        raise ForgetError(
            f"Expected a Stable Diffusion model or one of {known}, which can be trained by gradient, got {family.name}. Use Forget Concept "
            "for this model."
        )


def linear_layers(patcher: Any, pattern: str = ".*") -> dict[str, torch.nn.Module]:
    """Linear and convolution layers of a transformer whose paths match a pattern, by path."""
    modules = patcher.model.diffusion_model.named_modules()
    kinds = torch.nn.Linear, torch.nn.Conv2d
    return {path: m for path, m in modules if isinstance(m, kinds) and re.fullmatch(pattern, path)}


def before_entries(patcher: Any, family: TransformerFamily) -> list[str]:
    """Paths of the modules that rows of the context pass before the text entries."""
    modules = dict(patcher.model.diffusion_model.named_modules())
    return [path for path in family.before if path in modules]


def text_width(patcher: Any, family: TransformerFamily) -> int:
    """Width of the rows that a transformer takes."""
    first = [*before_entries(patcher, family), transformer_entries(patcher, family)[0].path][0]
    return next(p.shape for p in patcher.model.diffusion_model.get_submodule(first).parameters() if p.ndim)[-1]
