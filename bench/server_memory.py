"""Memory of a real server over many trainings: python -m bench.server_memory [--cycles 100] [--json FILE]

Every cycle trains a patch (closed form and re-steering in turn), applies it, draws a picture and frees everything
through the host's /free. Rows: cycle, megabytes (resident memory of the server). Writes bench/results/memory.md after
100 cycles or more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil

from bench.results_page import RESULTS, machine, markdown_table
from tools.comfy_server import ComfyServer

PROMPT = "a picture of a zebra in noto style"


def cycle_prompt(number: int) -> dict:
    """Graph that trains a patch on the miniature, applies it and draws a picture; the seed keeps it out of the cache."""
    method = ("closed form", "attention re-steering")[number % 2]
    training = {
        "model": ["mini", 0], "clip": ["mini", 1], "phrase": "zebra", "kind": "object", "method": method, "preserve_prompts": "horse",
        "preservation": 1.0, "steps": 5, "learning_rate": 3e-3, "rank": 32, "train": "auto", "loss": "paper", "end_token": "first",
        "target_mass": 0.0, "seed": number, "file_name": "",
    }  # fmt: skip
    apply = {
        "model": ["mini", 0],
        "patch_file": "(from the forget_patch input)",
        "strength": 1.0,
        "forget_patch": ["train", 1],
    }
    sample = {
        "model": ["apply", 0], "seed": number, "steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0],
    }  # fmt: skip
    nodes = {
        "mini": ("FMN_LoadMiniature", {}),
        "train": ("FMN_TrainForgetPatch", training),
        "apply": ("FMN_ApplyForgetPatch", apply),
        "text": ("CLIPTextEncode", {"clip": ["mini", 1], "text": PROMPT}),
        "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sample": ("KSampler", sample),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["mini", 2]}),
        "show": ("PreviewImage", {"images": ["decode", 0]}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def memory_rows(cycles: int) -> list[dict]:
    """Runs cycles on a server and returns its resident memory after each."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        for number in range(1, cycles + 1):
            server.run(cycle_prompt(number))
            server.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(0.5)
            rows.append({"cycle": number, "megabytes": round(process.memory_info().rss / 1e6)})
            if number % 10 == 0:
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = memory_rows(args.cycles)
    shown = [r for r in rows if r["cycle"] in (1, 2, 5) or r["cycle"] % 10 == 0]
    table = markdown_table(shown, ("cycle", "megabytes"))
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if args.cycles >= 100:
        text = f"""# Memory of a server over 100 trainings

Made by `python -m bench.server_memory` on {machine()}, {time.strftime("%Y-%m-%d")}. Every cycle loads the miniature, trains a patch (closed form and
re-steering in turn), applies it, draws a picture, and frees everything. Resident memory of the server:

{table}
"""
        (RESULTS / "memory.md").write_text(text)


if __name__ == "__main__":
    main()
