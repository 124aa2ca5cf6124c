"""A model of a few hundred weights that follows fmn_core's protocol: a causal text encoder and two attn2 layers."""

from __future__ import annotations

import torch

from fmn_core.attention.hooks import SteeredCrossAttention
from fmn_core.model.entries import TextEntry, attention_entries
from fmn_core.model.lazy import LazySequence
from fmn_core.model.protocol import CrossAttention
from fmn_core.model.tokens import CHUNK, PLACEHOLDER, EncodedPrompt, Vocabulary, vector_id

START, END = 1, 2
WORDS = ("zebra", "zebras", "horse", "house", "red", "barn", "teapot", "park", "table", "photo")


class ToyModel(SteeredCrossAttention):
    """Words are hashed to ids; token j's embedding mixes all tokens up to j, as a causal encoder's does."""

    def __init__(self, dim: int = 24, seed: int = 0, pad: int = END):
        g = torch.Generator().manual_seed(seed)
        self.device, self.dim, self.pad = torch.device("cpu"), dim, pad
        self.vocabulary = Vocabulary(START, END, {"l": pad})
        self.table = torch.randn(997, dim, generator=g)
        self.position = torch.randn(CHUNK, dim, generator=g) * 0.3
        self.mix = torch.randn(dim, dim, generator=g) / dim**0.5
        self.layers = []
        for name, width in (
            ("down_blocks.0.attentions.0.transformer_blocks.0.attn2", 16),
            ("mid_block.attentions.0.transformer_blocks.0.attn2", 32),
        ):
            parts = {"to_q": torch.nn.Linear(4, width, bias=False), "to_out.0": torch.nn.Linear(width, 4)}
            parts |= {p: torch.nn.Linear(dim, width, bias=False) for p in ("to_k", "to_v")}
            for module in parts.values():
                for parameter in module.parameters():
                    parameter.data = torch.randn(parameter.shape, generator=g) * 0.4
                    parameter.requires_grad_(False)
            self.layers.append(CrossAttention(name, 4, parts))

    def ids(self, text: str) -> list[int]:
        return [
            3 + sum(ord(c) * (i + 7) ** 2 for i, c in enumerate(w)) % 990
            for w in text.lower().replace(",", " ,").split()
        ]

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        return {name: [ids] for name, ids in self.phrase_tokens(phrase).items()}

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        return {"l": self.ids(phrase)}

    def vector_tokens(self, phrase: str) -> dict[str, list[int]]:
        return self.phrase_tokens(phrase)

    def words(self) -> dict[int, str]:
        return {self.ids(word)[0]: word for word in WORDS}

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        return {"l": self.table}

    def encode(self, prompts: list[str], words=None, padding=None) -> list[EncodedPrompt]:
        encoded = []
        for text, word in zip(prompts, words or [None] * len(prompts)):
            vectors = torch.zeros(0, self.dim) if word is None else word["l"]
            before, found, after = text.partition(PLACEHOLDER)
            new = [vector_id(v) for v in vectors] if found else []
            ids = [START, *self.ids(before), *new, *self.ids(after)][: CHUNK - 1]
            ids += [END] + [self.pad] * (CHUNK - 1 - len(ids))
            x = torch.stack([self.table[i] if i >= 0 else vectors[new.index(i)] for i in ids])
            x = x + self.position
            past = x.cumsum(0) / torch.arange(1, CHUNK + 1)[:, None]
            context = torch.nn.functional.layer_norm(x + torch.tanh(past @ self.mix) * 2, (self.dim,)) * 3
            rows = CHUNK if padding is None else min(CHUNK, ids.index(END) + 1 + padding)
            encoded.append(EncodedPrompt(text, {"l": [ids]}, context[:rows]))
        return encoded

    def cross_attention(self) -> list[CrossAttention]:
        return self.layers

    def text_entries(self) -> list[TextEntry]:
        return attention_entries(self.layers)

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        return {f"{layer.name}.{p}": m for layer in self.layers for p, m in layer.projections.items()}

    def weights(self, names, device="cpu") -> LazySequence[torch.Tensor]:
        found = self.linear_layers()
        return LazySequence(len(names), lambda n: found[".".join(names[n])].weight.detach().float().clone())

    def compute_dtype(self) -> torch.dtype:
        return torch.float32

    def blocks(self) -> list[torch.nn.Module]:
        return []

    def latent_shape(self) -> tuple[int, int, int]:
        return 4, 8, 8

    def sigmas(self) -> torch.Tensor:
        return torch.linspace(0.03, 14, 100)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts) -> torch.Tensor:
        context = torch.stack([p.context for p in prompts])
        h = (x / (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt()).flatten(2).transpose(1, 2)
        for layer in self.layers:
            p = layer.projections
            q, k, v = p["to_q"](h), p["to_k"](context), p["to_v"](context)
            q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            h = h + p["to_out.0"](out.transpose(1, 2).flatten(2))
        return h.transpose(1, 2).reshape(x.shape)
