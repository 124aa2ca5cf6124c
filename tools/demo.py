"""`make demo`: forgets a concept of the miniature in a real ComfyUI, and leaves pictures and a report.

python -m tools.demo [--concept "santa claus"] [--out out/demo]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path

import torch
from tqdm import tqdm

from bench.picture_figures import drift, share
from bench.picture_pages import before_after_page
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLE_NAMES, caption_of, drawn_styles
from mini_sd.judge import classify, load_judge
from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.workflow import to_api

WORKFLOW = REPOSITORY / "workflows" / "forget_a_concept.json"
LOOK_ALIKE = {
    "zebra": "horse",
    "horse": "zebra",
    "dog": "fox",
    "fox": "dog",
    "red apple": "green apple",
    "green apple": "red apple",
}
TARGET_SEEDS, OTHER_SEEDS = (1, 2, 3, 4), (1,)


def node_titled(prompt: dict, title: str) -> dict:
    """The inputs of the node with this title."""
    return next(n["inputs"] for n in prompt.values() if n["_meta"]["title"] == title)


def node_typed(prompt: dict, kind: str) -> tuple[str, dict]:
    return next((i, n["inputs"]) for i, n in prompt.items() if n["class_type"] == kind)


def neighbours(concept: str) -> tuple[str, str]:
    """A look-alike and something unrelated."""
    same_kind = [n for n in CONCEPT_NAMES if n != concept and BY_NAME[n].kind == BY_NAME[concept].kind]
    look_alike = LOOK_ALIKE.get(concept, same_kind[0])
    unrelated = next(n for n in ("guitar", "house", "robot") if n not in (concept, look_alike))
    return look_alike, unrelated


def prepared(prompt: dict, concept: str) -> dict:
    """The template workflow with another concept in it."""
    _, train = node_typed(prompt, "FMN_TrainForgetPatch")
    train["phrase"], train["kind"] = concept, BY_NAME[concept].kind
    train["file_name"] = "forget_" + concept.replace(" ", "_")
    train["preserve_prompts"] = "\n".join(n for n in CONCEPT_NAMES if n != concept)
    for title, name in zip(("target", "look-alike", "unrelated"), (concept, *neighbours(concept))):
        node_titled(prompt, title)["text"] = caption_of(name, "noto")
    return prompt


def measuring_prompt(patch_file: str, jobs: list[tuple[str, int]]) -> dict:
    """An API prompt that renders (caption, seed) jobs before and after the patch with the stock nodes."""
    prompt = {
        "model": {"class_type": "FMN_LoadMiniature", "inputs": {}},
        "patched": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["model", 0], "lora_name": patch_file, "strength_model": 1.0},
        },
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    }
    sampler = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    for k, (caption, seed) in enumerate(jobs):
        prompt[f"text{k}"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": caption}}
        for when, model in (("before", ["model", 0]), ("after", ["patched", 0])):
            inputs = {
                "model": model,
                "seed": seed,
                "positive": [f"text{k}", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                **sampler,
            }
            prompt[f"sample_{when}{k}"] = {"class_type": "KSampler", "inputs": inputs}
            prompt[f"decode_{when}{k}"] = {
                "class_type": "VAEDecode",
                "inputs": {"samples": [f"sample_{when}{k}", 0], "vae": ["model", 2]},
            }
            prompt[f"{when}{k}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"decode_{when}{k}", 0]}}
    return prompt


def follow(server: ComfyServer, prompt: dict, label: str) -> dict:
    """Runs a prompt with a progress bar over its nodes, which a running node's own steps move on in fractions, and the running node's name."""
    with tqdm(
        total=len(prompt),
        desc=label,
        mininterval=0.5,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
    ) as bar:
        done: set[str] = set()

        def on_event(kind: str, data: dict) -> None:
            if kind == "executing" and data.get("node"):
                done.add(data["node"])
                bar.set_postfix_str(f"running {prompt[data['node']]['class_type']}", refresh=False)
            elif kind == "execution_cached":
                done.update(data.get("nodes", []))
            now = len(done)
            if kind == "progress" and data.get("max"):
                now += data["value"] / data["max"] - 1
            bar.update(max(0.0, min(now, len(prompt)) - bar.n))

        outputs = server.run(prompt, on_event)
        bar.set_postfix_str("", refresh=False)
        bar.update(len(prompt) - bar.n)
    return outputs


def pictures(server: ComfyServer, outputs: dict, names: list[str]) -> torch.Tensor:
    """Images of the named preview nodes, (N, H, W, 3) in 0..1."""
    import numpy as np

    images = [server.image(entry) for name in names for entry in outputs[name]["images"]]
    return torch.stack([torch.from_numpy(np.array(i)).float() / 255 for i in images])


def measure(server: ComfyServer, concept: str, patch_file: str) -> dict:
    """Judge accuracies before and after: the target in every style, every other concept in one."""
    draw = random.Random(0)
    others = [n for n in CONCEPT_NAMES if n != concept]
    target_jobs = [(caption_of(concept, s), seed) for s in drawn_styles(concept) for seed in TARGET_SEEDS]
    other_jobs = [(caption_of(n, draw.choice(STYLE_NAMES[:3])), seed) for n in others for seed in OTHER_SEEDS]
    jobs = target_jobs + other_jobs
    outputs = follow(server, measuring_prompt(patch_file, jobs), "measuring")
    judge, n = load_judge(), len(target_jobs)
    images = {when: pictures(server, outputs, [f"{when}{k}" for k in range(len(jobs))]) for when in ("before", "after")}
    figures = {}
    for when, batch in images.items():
        seen, _ = classify(judge, batch)
        figures[f"forget_{when}"] = share(seen[:n], [concept] * n)
        figures[f"keep_{when}"] = share(seen[n:], [name for name in others for _ in OTHER_SEEDS])
    return figures | {"drift": drift(images["before"][n:], images["after"][n:]), "images": 2 * len(jobs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", default="zebra")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "demo")
    args = parser.parse_args()
    concept = args.concept.strip().lower()
    if concept not in BY_NAME:
        raise SystemExit(
            f"Expected one of the miniature's concepts, got {concept!r}. It knows: {', '.join(CONCEPT_NAMES)}."
        )
    base = args.out.parent / "host" / "demo"
    shutil.rmtree(base / "models" / "loras" / "forget_me_not", ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    server = ComfyServer(base, on_wait=lambda said: print(said, flush=True))
    print(f"starting ComfyUI, its log is {server.log_path} ...", flush=True)
    with server:
        prompt = prepared(to_api(json.loads(WORKFLOW.read_text()), server.object_info()), concept)
        train_id, train = node_typed(prompt, "FMN_TrainForgetPatch")
        outputs = follow(server, prompt, f"forgetting {concept}")
        patch = server.loras / "forget_me_not" / f"{train['file_name']}.safetensors"
        report = measure(server, concept, f"forget_me_not/{patch.name}")
        rows = {}
        for title in ("target", "look-alike", "unrelated"):
            saved = {
                w: next(
                    i
                    for i, n in prompt.items()
                    if n["_meta"]["title"] == f"{title} {w}" and n["class_type"] == "SaveImage"
                )
                for w in ("before", "after")
            }
            rows[node_titled(prompt, title)["text"]] = tuple(
                pictures(server, outputs, [saved[w]]) for w in ("before", "after")
            )
    words = "\n".join(outputs[train_id]["text"])
    shutil.copy(patch, args.out / patch.name)
    before_after_page(rows).save(args.out / "before_after.png")
    report = {
        "concept": concept,
        **report,
        "seconds": seconds_in(words),
        "patch_bytes": patch.stat().st_size,
        "made": time.strftime("%Y-%m-%d"),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(words)
    print(json.dumps(report, indent=2))
    print(
        f"see {args.out.relative_to(Path.cwd()) if args.out.is_relative_to(Path.cwd()) else args.out}/before_after.png"
    )


def seconds_in(words: str) -> float:
    """The training time from the node's report: "matched 16 layers in 0.8 s"."""
    line = next(line for line in words.splitlines() if line.startswith("matched"))
    return float(line.split(" in ")[1].split()[0])


if __name__ == "__main__":
    main()
