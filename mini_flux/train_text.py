"""Trains the text encoders of the miniature FLUX on captions alone: python -m mini_flux.train_text (resumes from out/mini_flux/text.ckpt).

From the rows of T5, and from the pooled vector of CLIP, heads that are thrown away afterwards tell what stands where, on which
ground, in which style, and from the row of each thing's name where it stands. As the real ones are, the encoders are then frozen while the transformer is trained, because untrained
ones tell it nothing.
"""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fmn_core.model.tokens import find_subsequence
from mini_flux import text
from mini_flux.captions import caption
from mini_flux.config import CONFIG, DATA
from mini_flux.judge import GROUND_NAMES, NOTHING, PLACES, labels, place_of
from mini_flux.networks import allow_gradients, build_clip, build_t5
from mini_flux.prepare_art import load_artwork
from mini_flux.scenes import Scene, random_scene
from mini_flux.things import BY_NAME, STYLE_NAMES
from mini_sd.training import Run, arguments, generators
from tools import comfy_host

STRANGE_WORD_SHARE = 0.15
STRANGE_WORDS = ("quite", "wooden", "happily", "somewhere", "marvellous", "old", "and then", "definitely")
# Of captions that name the things in any case.
WHOLE_SHARE = 0.9
OWN_ROW_WEIGHT = 5.0
# Classes of each question: the thing at each place, the ground at top and bottom, the style.
CLASSES = (*[NOTHING + 1] * len(PLACES), *[len(GROUND_NAMES)] * 2, len(STYLE_NAMES))


def token_rows(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers in the tables of T5 (B, 48) and of CLIP (B, 77)."""
    encoders = text.t5(), text.clip()
    rows, tokens = (torch.stack([encoder.rows(prompt) for prompt in prompts]) for encoder in encoders)
    return rows, tokens


def with_strange_word(prompt: str, rng: np.random.Generator) -> str:
    """A prompt, now and then with a word in it that is not in the world, so that such words do no harm."""
    if rng.random() >= STRANGE_WORD_SHARE:
        return prompt
    words = prompt.split()
    words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(STRANGE_WORDS)))
    return " ".join(words)


class Heads(nn.Module):
    """Answers the questions of CLASSES from rows (B, l, 256), to which each question attends, and from pooled vectors (B, 128)."""

    def __init__(self):
        super().__init__()
        width = CONFIG["t5"]["d_model"]
        self.questions = nn.Parameter(torch.randn(len(CLASSES), width) / width**0.5)
        self.of_rows = nn.ModuleList(nn.Linear(width, count) for count in CLASSES)
        self.of_own_row = nn.Linear(width, len(PLACES))
        self.of_pooled = nn.ModuleList(nn.Linear(CONFIG["clip"]["hidden_size"], count) for count in CLASSES)

    def forward(self, rows: torch.Tensor, pooled: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each question the logits from rows and from the pooled vector."""
        read = torch.softmax(self.questions @ rows.mT, -1) @ rows
        pairs = zip(self.of_rows, self.of_pooled)
        return [(of_rows(read[:, n]), of_pooled(pooled)) for n, (of_rows, of_pooled) in enumerate(pairs)]


def mentions(prompts: list[str], scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where things are named: numbers of the prompts, T5's rows of the names' last tokens, and places of the things, each (n,)."""
    found = []
    for number, (prompt, scene) in enumerate(zip(prompts, scenes)):
        ids = list(text.t5().tokenize(prompt))
        for n, placed in enumerate(scene.things):
            ends = [start + len(name) - 1 for name in _names(placed.thing) for start in find_subsequence(ids, name)]
            found += [(number, end, PLACES.index(place_of(scene, n))) for end in ends if end < CONFIG["t5_length"]]
    numbers, rows, places = torch.tensor(found).T
    return numbers, rows, places


@functools.cache
def _names(thing: str) -> list[list[int]]:
    """T5's tokens of each name of a thing."""
    concept = BY_NAME[thing]
    names = [concept.name, *concept.synonyms, *([concept.shared_word] if concept.shared_word else [])]
    return [list(text.t5().tokenize(name))[:-1] for name in names]


def answers(scenes: list[Scene]) -> torch.Tensor:
    """The class of each question, (B, questions)."""
    return torch.tensor([[*things, *grounds, style] for things, grounds, style in map(labels, scenes)])


def main() -> None:
    args = arguments(__doc__, steps=3000, batch=64, lr=1e-3, data=DATA)
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    # New scenes in every step: of a fixed set, the encoders learned which pairs stand how, and not what the words say.
    artwork = load_artwork(args.data)
    networks = {"t5": build_t5(), "clip": build_clip(), "heads": Heads()}
    allow_gradients(*networks.values())
    parameters = [p for network in networks.values() for p in network.parameters()]
    run = Run("text", args, networks, torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01))
    while run.step < args.steps:
        _, rng = generators(args.seed, run.step)
        chosen = [random_scene(artwork, rng) for _ in range(args.batch)]
        draw = random.Random(args.seed * 1_000_003 + run.step)
        prompts = [caption(scene, draw, whole=draw.random() < WHOLE_SHARE) for scene in chosen]
        prompts = [with_strange_word(prompt, rng) for prompt in prompts]
        rows, tokens = token_rows(prompts)
        numbers, own_rows, places = mentions(prompts, chosen)
        with torch.autocast(args.device, torch.bfloat16):
            context = networks["t5"](rows, None)[0]
            logits = networks["heads"](context, networks["clip"](tokens)[3])
            own = networks["heads"].of_own_row(context[numbers, own_rows])
        targets = answers(chosen)
        losses = [F.cross_entropy(one.float(), targets[:, n]) for n, pair in enumerate(logits) for one in pair]
        run.step_on(torch.stack(losses).sum() + OWN_ROW_WEIGHT * F.cross_entropy(own.float(), places))


if __name__ == "__main__":
    main()
