"""`make demo`: forgets a concept of the miniature in a real ComfyUI, and writes pictures and a report.

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


def inputs_by_title(prompt: dict, title: str) -> dict:
    """The inputs of the node with this title."""
    return next(n["inputs"] for n in prompt.values() if n["_meta"]["title"] == title)


def node_by_type(prompt: dict, node_type: str) -> tuple[str, dict]:
    """Id and inputs of the first node of a type."""
    return next((i, n["inputs"]) for i, n in prompt.items() if n["class_type"] == node_type)


def neighbours(concept: str) -> tuple[str, str]:
    """Two other concepts to show: a look-alike and an unrelated one."""
    same_kind = [n for n in CONCEPT_NAMES if n != concept and BY_NAME[n].kind == BY_NAME[concept].kind]
    look_alike = LOOK_ALIKE.get(concept, same_kind[0])
    unrelated = next(n for n in ("guitar", "house", "robot") if n not in (concept, look_alike))
    return look_alike, unrelated


def with_concept(prompt: dict, concept: str) -> dict:
    """Puts a concept and its neighbours into the template workflow."""
    _, train = node_by_type(prompt, "FMN_TrainForgetPatch")
    train["phrase"], train["kind"] = concept, BY_NAME[concept].kind
    train["file_name"] = "forget_" + concept.replace(" ", "_")
    train["preserve_prompts"] = "\n".join(n for n in CONCEPT_NAMES if n != concept)
    for title, name in zip(("target", "look-alike", "unrelated"), (concept, *neighbours(concept))):
        inputs_by_title(prompt, title)["text"] = caption_of(name, "noto")
    return prompt


def measuring_prompt(patch_file: str, jobs: list[tuple[str, int]]) -> dict:
    """A prompt of ComfyUI's own nodes that draws each (caption, seed) job without and with the patch.

    The pictures of job k are at the nodes "before{k}" and "after{k}".
    """
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


def run_with_progress(server: ComfyServer, prompt: dict, label: str) -> dict:
    """Runs a prompt with a progress bar, on which a node is one unit and its own progress a fraction."""
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
            position = len(done)
            if kind == "progress" and data.get("max"):
                position += data["value"] / data["max"] - 1
            bar.update(max(0.0, min(position, len(prompt)) - bar.n))

        outputs = server.run(prompt, on_event)
        bar.set_postfix_str("", refresh=False)
        bar.update(len(prompt) - bar.n)
    return outputs


def download_images(server: ComfyServer, outputs: dict, names: list[str]) -> torch.Tensor:
    """Downloads the images of some nodes, (N, H, W, 3) in 0..1."""
    import numpy as np

    images = [server.image(entry) for name in names for entry in outputs[name]["images"]]
    return torch.stack([torch.from_numpy(np.array(i)).float() / 255 for i in images])


def measure(server: ComfyServer, concept: str, patch_file: str) -> dict:
    """Measures, before and after, how often the judge recognises the concept in every style and each other concept in one."""
    rng = random.Random(0)
    others = [n for n in CONCEPT_NAMES if n != concept]
    target_jobs = [(caption_of(concept, s), seed) for s in drawn_styles(concept) for seed in TARGET_SEEDS]
    other_jobs = [(caption_of(n, rng.choice(STYLE_NAMES[:3])), seed) for n in others for seed in OTHER_SEEDS]
    jobs = target_jobs + other_jobs
    outputs = run_with_progress(server, measuring_prompt(patch_file, jobs), "measuring")
    judge, targets = load_judge(), len(target_jobs)
    images = {
        when: download_images(server, outputs, [f"{when}{k}" for k in range(len(jobs))]) for when in ("before", "after")
    }
    figures = {}
    for when, batch in images.items():
        seen, _ = classify(judge, batch)
        figures[f"forget_{when}"] = share(seen[:targets], [concept] * targets)
        figures[f"keep_{when}"] = share(seen[targets:], [name for name in others for _ in OTHER_SEEDS])
    return figures | {"drift": drift(images["before"][targets:], images["after"][targets:]), "images": 2 * len(jobs)}


def before_after_rows(server: ComfyServer, prompt: dict, outputs: dict) -> dict[str, tuple[torch.Tensor, ...]]:
    """The workflow's pictures without and with the patch, by caption."""
    saved = {n["_meta"]["title"]: name for name, n in prompt.items() if n["class_type"] == "SaveImage"}
    return {
        inputs_by_title(prompt, title)["text"]: tuple(
            download_images(server, outputs, [saved[f"{title} {when}"]]) for when in ("before", "after")
        )
        for title in ("target", "look-alike", "unrelated")
    }


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
    server = ComfyServer(base, on_wait=lambda line: print(line, flush=True))
    print(f"starting ComfyUI, its log is {server.log_path} ...", flush=True)
    with server:
        prompt = with_concept(to_api(json.loads(WORKFLOW.read_text()), server.object_info()), concept)
        train_id, train = node_by_type(prompt, "FMN_TrainForgetPatch")
        outputs = run_with_progress(server, prompt, f"forgetting {concept}")
        patch = server.loras / "forget_me_not" / f"{train['file_name']}.safetensors"
        report = measure(server, concept, f"forget_me_not/{patch.name}")
        rows = before_after_rows(server, prompt, outputs)
    node_report = "\n".join(outputs[train_id]["text"])
    shutil.copy(patch, args.out / patch.name)
    before_after_page(rows).save(args.out / "before_after.png")
    report = {
        "concept": concept,
        **report,
        "seconds": training_seconds(node_report),
        "patch_bytes": patch.stat().st_size,
        "made": time.strftime("%Y-%m-%d"),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(node_report)
    print(json.dumps(report, indent=2))
    folder = args.out.relative_to(Path.cwd()) if args.out.is_relative_to(Path.cwd()) else args.out
    print(f"see {folder}/before_after.png")


def training_seconds(node_report: str) -> float:
    """The training time in the node's report, from its line "matched 16 layers in 0.8 s"."""
    line = next(line for line in node_report.splitlines() if line.startswith("matched"))
    return float(line.split(" in ")[1].split()[0])


if __name__ == "__main__":
    main()
