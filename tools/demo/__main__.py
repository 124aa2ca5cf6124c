"""`make demo`: forgets a concept of a miniature in a real ComfyUI, and writes pictures and a report.

python -m tools.demo [--model unet|flux] [--concept "santa claus"] [--out out/demo]
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from bench.picture_pages import before_after_page
from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.demo import flux, unet
from tools.demo.running import PICTURES, before_after_rows, node_by_type, run_with_progress
from tools.workflow import to_api

DEMOS = {"unet": unet, "flux": flux}


def with_concept(prompt: dict, concept: str, kind: str, prompts: list[str]) -> dict:
    """Puts a concept and what is drawn before and after into a workflow."""
    _, forget = node_by_type(prompt, "FMN_ForgetConcept")
    forget["forget"], forget["kind"] = concept, kind
    _, compare = node_by_type(prompt, "FMN_Compare")
    compare["prompts"] = "\n".join(prompts)
    compare["pictures"] = PICTURES
    return prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=DEMOS, default="unet")
    parser.add_argument("--concept", default="zebra")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "demo")
    args = parser.parse_args()
    demo, concept = DEMOS[args.model], args.concept.strip().lower()
    if concept not in demo.CONCEPTS:
        raise SystemExit(
            f"Expected one of the miniature's concepts, got {concept!r}. It knows: {', '.join(demo.CONCEPTS)}."
        )
    base = args.out.parent / "host" / "demo"
    shutil.rmtree(base / "models" / "loras" / "forget_me_not", ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    server = ComfyServer(base, on_wait=lambda line: print(line, flush=True))
    print(f"starting ComfyUI, its log is {server.log_path} ...", flush=True)
    with server:
        workflow = json.loads((REPOSITORY / "workflows" / f"{demo.WORKFLOW}.json").read_text())
        kind, prompts = demo.CONCEPTS[concept].kind, demo.prompts_of(concept)
        prompt = with_concept(to_api(workflow, server.object_info()), concept, kind, prompts)
        forget_id, _ = node_by_type(prompt, "FMN_ForgetConcept")
        outputs = run_with_progress(server, prompt, f"forgetting {concept}")
        patch = server.loras / "forget_me_not" / f"forget_{concept.replace(' ', '_')}.safetensors"
        report = demo.measure(server, concept, f"forget_me_not/{patch.name}")
        rows = before_after_rows(server, prompt, outputs)
    node_report = "\n".join(outputs[forget_id]["text"])
    shutil.copy(patch, args.out / patch.name)
    before_after_page(rows).save(args.out / "before_after.png")
    report = {
        "model": args.model,
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
