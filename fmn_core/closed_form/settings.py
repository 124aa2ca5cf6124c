"""Options of the closed form."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..concepts.preserve import IMAGINED_WORDS
from ..model.layers import TextProjections
from ..options import option, options
from .targets import ABLATED, BY_KIND, Target
from .weight_choice import AUTO

Precision = Literal["float64 on the CPU", "float32 on the model's device"]

Synonyms = Literal["name them", "forget them too", "ignore"]
NAMED, FORGOTTEN, IGNORED = get_args(Synonyms)
VOCABULARY_WORDS = 96

PRECISIONS: dict[Precision, torch.dtype] = dict(zip(get_args(Precision), (torch.float64, torch.float32)))


@options
class ClosedFormSettings:
    """Options of a closed-form solve.

    Notes
    -----
    The ridge is lambda and the preserve weight is mu of docs/glossary.md; where they are 0, `choose_weights` chooses them. `rank`
    bounds each concept, so a patch of three concepts may have three times the rank.
    """

    train: TextProjections = option(default="values", help="Which weights of cross-attention change.")
    target: Target = option(
        default=ABLATED,
        help="What a prompt with the phrase should act like: the prompt without it, nothing at the phrase's tokens, the empty prompt, "
        "or the prompt with the substitute in the phrase's place.",
    )
    substitute: str = option(default="", help="For the target substitute: what to draw instead, such as horse.")
    overshoot: float = option(
        default=BY_KIND,
        help="How much further than the target, away from the concept: 0 ends at the target, 0.5 goes half as far again. -1: 0.5 for a "
        "style, whose fallback may be drawn in that very style; for everything else as much as is missing in imagined styles, at most 0.4.",
        minimum=BY_KIND,
        maximum=3.0,
        step=0.05,
    )
    precision: Precision = option(
        default="float64 on the CPU",
        help="Where the system is solved. float32 is meant for GPUs; the report tells the system's condition.",
    )
    preservation: float = option(
        default=1.0,
        help="How much keeping counts against forgetting; 1 is balanced, more keeps more.",
        minimum=0.0,
        maximum=100.0,
        step=0.05,
    )
    ridge: float = option(
        default=AUTO,
        help="lambda, relative to the mean eigenvalue of the system. 0: chosen on held-out templates and prompts.",
        minimum=0.0,
        maximum=10.0,
        step=1e-6,
    )
    preserve_weight: float = option(
        default=AUTO,
        help="Weight of preserve prompts against the concept. 0: chosen on held-out templates and prompts.",
        minimum=0.0,
        maximum=1000.0,
        step=0.1,
    )
    rank: int = option(
        default=16,
        help="LoRA rank. Closed form: the upper bound for each concept; the smallest rank that suffices is used.",
        minimum=1,
        maximum=256,
    )
    tolerance: float = option(
        default=1e-4,
        help="Share of energy that may be left behind where a lower rank will do.",
        minimum=0.0,
        maximum=0.5,
        step=0.001,
    )
    preserve_prompts: list[str] = option(
        default=list,
        help="Prompts or words to keep as they are, one per line; neighbours of the concept help most. Everyday captions are always included.",
    )
    use_everyday_captions: bool = option(default=True, help="Preserve the built-in everyday captions.")
    imagined_words: int = option(
        default=IMAGINED_WORDS,
        help="Words that do not exist, preserved so that words in no list are kept too: so many for each concept, up to 1000 in all. "
        "Half of them stand where a style is named. Fewer are faster and keep less.",
        minimum=0,
        maximum=4 * IMAGINED_WORDS,
    )
    vocabulary_words: int = option(
        default=VOCABULARY_WORDS,
        help="Words of the text encoder's own vocabulary that are compared with each concept, most of them the nearest. Those that mean "
        "something else are preserved; those that mean the same are its synonyms. 0: none.",
        minimum=0,
        maximum=1000,
    )
    synonyms: Synonyms = option(
        default=NAMED,
        help="Words of the vocabulary that act like the concept: name them in the report, forget them too, or say nothing of them.",
    )
