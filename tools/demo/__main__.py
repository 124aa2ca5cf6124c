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

WORKFLOW = REPOSITORY / "workflows" / "01 Forget a concept.json"
LOOK_ALIKE = {
    "zebra": "horse",
    "horse": "zebra",
    "dog": "fox",
    "fox": "dog",
    "red apple": "green apple",
    "green apple": "red apple",
}
# Pictures of the concept in each caption.
PICTURES = 4


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
    """Puts a concept and its neighbours into the starter workflow."""
    _, forget = node_by_type(prompt, "FMN_ForgetConcept")
    forget["forget"], forget["kind"] = concept, BY_NAME[concept].kind
    _, compare = node_by_type(prompt, "FMN_Compare")
    compare["prompts"] = "\n".join(caption_of(name, "noto") for name in (concept, *neighbours(concept)))
    compare["pictures"] = PICTURES
    return prompt


def measuring_prompt(patch_file: str, asks: dict[str, tuple[list[str], int]]) -> dict:
    """A prompt that draws captions, several seeds of each, without the patch and with the stock loader of LoRA files.

    Parameters
    ----------
    asks
        For each node of the prompt: captions, and the number of pictures of each.
    """
    prompt = {
        "model": {"class_type": "FMN_LoadMiniature", "inputs": {}},
        "patched": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["model", 0], "lora_name": patch_file, "strength_model": 1.0},
        },
    }
    wires = {"before": ["model", 0], "after": ["patched", 0], "clip": ["model", 1], "vae": ["model", 2]}
    sampling = {
        "seed": 1,
        "steps": 20,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "width": 0,
        "height": 0,
    }
    for name, (captions, pictures) in asks.items():
        inputs = {**wires, **sampling, "prompts": "\n".join(captions), "pictures": pictures}
        prompt[name] = {"class_type": "FMN_Compare", "inputs": inputs}
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


def pictures_of(server: ComfyServer, output: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures (N, H, W, 3) in 0..1 before and after of a Compare node's output."""
    import numpy as np

    before, after = (
        torch.stack(
            [torch.from_numpy(np.array(server.image(e).convert("RGB"))).float() / 255 for e in output[f"fmn_{when}"]]
        )
        for when in ("before", "after")
    )
    return before, after


def measure(server: ComfyServer, concept: str, patch_file: str) -> dict:
    """Measures, before and after, how often the judge recognises the concept in every style and each other concept in one."""
    rng = random.Random(0)
    others = [n for n in CONCEPT_NAMES if n != concept]
    asks = {
        "target": ([caption_of(concept, s) for s in drawn_styles(concept)], PICTURES),
        "others": ([caption_of(n, rng.choice(STYLE_NAMES[:3])) for n in others], 1),
    }
    outputs = run_with_progress(server, measuring_prompt(patch_file, asks), "measuring")
    judge = load_judge()
    target, kept = (pictures_of(server, outputs[name]) for name in asks)
    figures = {}
    for when, wanted, rest in zip(("before", "after"), target, kept):
        figures[f"forget_{when}"] = share(classify(judge, wanted)[0], [concept] * len(wanted))
        figures[f"keep_{when}"] = share(classify(judge, rest)[0], others)
    return figures | {"drift": drift(*kept), "images": 2 * (len(target[0]) + len(kept[0]))}


def before_after_rows(server: ComfyServer, prompt: dict, outputs: dict) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The starter's pictures before and after, by caption."""
    node, inputs = node_by_type(prompt, "FMN_Compare")
    before, after = (batch.split(PICTURES) for batch in pictures_of(server, outputs[node]))
    return dict(zip(inputs["prompts"].splitlines(), zip(before, after)))


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
        forget_id, _ = node_by_type(prompt, "FMN_ForgetConcept")
        outputs = run_with_progress(server, prompt, f"forgetting {concept}")
        patch = server.loras / "forget_me_not" / f"forget_{concept.replace(' ', '_')}.safetensors"
        report = measure(server, concept, f"forget_me_not/{patch.name}")
        rows = before_after_rows(server, prompt, outputs)
    node_report = "\n".join(outputs[forget_id]["text"])
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
