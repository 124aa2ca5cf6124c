"""Shared by the miniature's training scripts: seeds, resumable checkpoints, EMA, learning rate, log, data."""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from fmn_core.safetensors_file import write_whole

HERE = Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "config.json").read_text())


def arguments(
    description: str | None, steps: int, batch: int, lr: float, data: Path = Path("out/mini_sd"), **flags: str
) -> argparse.Namespace:
    """Parses the options that all training scripts have, and switches of one script with their help texts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=data, help="folder of art.npz, checkpoints and logs")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser.parse_args()


def init_weights(module: torch.nn.Module) -> None:
    """Gives every layer torch's own initialisation, which the host's layer classes skip."""
    for layer in module.modules():
        for base in type(layer).__mro__:
            if base.__module__.startswith("torch.nn") and "reset_parameters" in vars(base):
                base.reset_parameters(layer)
                break


def load_art(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images (N, 128, 128, 3) uint8, icon names and icon sets."""
    data = np.load(folder / "art.npz")
    return data["images"], data["names"], data["sets"]


def concept_art(names: np.ndarray, sets: np.ndarray, icon_sets: dict[str, str]) -> list[tuple[int, int, int]]:
    """Finds (image index, concept index, style index) of every concept in every icon set that draws it."""
    from mini_sd.concepts import CONCEPTS

    index = {(s, n): i for i, (s, n) in enumerate(zip(sets, names))}
    found = []
    for c, concept in enumerate(CONCEPTS):
        for s, icon_set in enumerate(icon_sets.values()):
            hits = [index[icon_set, icon] for icon in concept.icons if (icon_set, icon) in index]
            if hits:
                found.append((hits[0], c, s))
    return found


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class Ema:
    """Exponential moving average of a module's parameters, kept in float32."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for k, v in module.state_dict().items():
            if v.dtype.is_floating_point:
                self.shadow[k].lerp_(v, 1 - decay)


class Run:
    """A resumable training run: checkpoint file, log file, learning-rate schedule."""

    def __init__(self, name: str, args: argparse.Namespace, modules: dict[str, torch.nn.Module], optimiser):
        args.data.mkdir(parents=True, exist_ok=True)
        self.path = args.data / f"{name}.ckpt"
        self.log_path = args.data / f"{name}.log"
        self.args, self.modules, self.optimiser = args, modules, optimiser
        self.emas = {k: Ema(m, 0.997) for k, m in modules.items()}
        self.step, self.seconds, self._tick = 0, 0.0, time.time()
        self._losses: list[float] = []
        if self.path.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.path, map_location=self.args.device, weights_only=True)
        for k, m in self.modules.items():
            m.load_state_dict(state["modules"][k])
            self.emas[k].shadow = state["emas"][k]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"resumed {self.path} at step {self.step}", flush=True)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "seconds": self.elapsed(),
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "emas": {k: e.shadow for k, e in self.emas.items()},
            "optimiser": self.optimiser.state_dict(),
        }
        checkpoint = io.BytesIO()
        torch.save(state, checkpoint)
        write_whole(checkpoint.getvalue(), self.path)

    def elapsed(self) -> float:
        return self.seconds + time.time() - self._tick

    def learning_rate(self, warmup: int = 100) -> float:
        """Cosine schedule with warm-up, over the whole run."""
        s, total = self.step, self.args.steps
        return self.args.lr * min(1.0, (s + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / total)))

    def descend(self, loss: torch.Tensor, clip: float = 1.0) -> None:
        """One optimiser step on `loss`; raises FloatingPointError when the loss is not finite."""
        if not torch.isfinite(loss):
            raise FloatingPointError(f"Expected a finite loss at step {self.step}, got {loss.item()}.")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate() * group.get("lr_scale", 1.0)
        torch.nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], clip)
        self.optimiser.step()
        for k, m in self.modules.items():
            self.emas[k].update(m, self.step)
        self.step += 1

    def step_on(self, loss: torch.Tensor) -> None:
        """One optimiser step; the mean loss is logged every 50 steps, and the state saved every 250 and at the end."""
        self.descend(loss)
        self._losses.append(loss.item())
        if self.step % 50 == 0:
            self.log(loss=round(float(np.mean(self._losses[-50:])), 4))
        if self.step % 250 == 0 or self.step == self.args.steps:
            self.save()

    def log(self, **values) -> None:
        line = json.dumps({"step": self.step, "seconds": round(self.elapsed(), 1), **values})
        print(line, flush=True)
        with self.log_path.open("a") as f:
            f.write(line + "\n")


def generators(seed: int, step: int) -> tuple[torch.Generator, np.random.Generator]:
    """The random state of one step: it depends on the step alone, so a resumed run repeats an unbroken one."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step), np.random.default_rng((seed, step))
