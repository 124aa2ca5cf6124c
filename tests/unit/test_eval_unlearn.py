"""The technique for eval-unlearn on the miniature's folder: alone, as pip installs it, and in the package's own runner."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fmn_core.adapters.eval_unlearn import ForgetMeNot
from fmn_core.errors import ForgetError
from fmn_core.patch.file import load_patch, save_patch
from mini_sd.concepts import CONCEPT_NAMES, caption_of
from tools import comfy_host

PROMPTS = [caption_of("zebra", "noto"), caption_of("dog", "noto")]
DRAWN = {"num_inference_steps": 4, "guidance_scale": 3.0}
SEED = 70_005
OTHERS = [name for name in CONCEPT_NAMES if name != "zebra"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The miniature as a diffusers folder."""
    comfy_host.activate()
    from mini_sd.export_diffusers import build_pipeline

    path = tmp_path_factory.mktemp("miniature")
    build_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def patch(folder, tmp_path_factory):
    return tmp_path_factory.mktemp("patches") / "forget_zebra.safetensors"


@pytest.fixture(scope="module")
def forgetting(folder, patch):
    """A technique that solved for the patch itself, and wrote it to `patch`."""
    config = {"erase_concept": "zebra", "preserve_prompts": OTHERS, "save_path": str(patch)}
    return ForgetMeNot(folder=str(folder), device="cpu", **config, **DRAWN)


def pictures(technique, **options):
    return np.stack([np.asarray(p) for p in technique.generate(PROMPTS, seed=SEED, **options)])


def drawn_by(pipeline):
    """The pictures of a pipeline of diffusers, without anything of this pack."""
    images = [
        pipeline(prompt, generator=torch.Generator().manual_seed(SEED + n), **DRAWN).images[0]
        for n, prompt in enumerate(PROMPTS)
    ]
    return np.stack([np.asarray(p) for p in images])


# --- alone ------------------------------------------------------------------------------------------------------------


def test_pictures_are_those_of_load_lora_weights(folder, patch, forgetting):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    before = drawn_by(pipeline)
    pipeline.load_lora_weights(str(patch.parent), weight_name=patch.name)
    after = drawn_by(pipeline)
    assert np.abs(after[0].astype(int) - before[0]).mean() > 10
    from_file = ForgetMeNot(folder=str(folder), patch=str(patch), device="cpu", **DRAWN)
    assert np.array_equal(pictures(from_file), after)
    # What was solved for here draws as what was written: with the stored values.
    assert np.array_equal(pictures(forgetting), after)


def test_sdxl_too(tmp_path):
    comfy_host.activate()
    import tiny_pipelines
    from diffusers import StableDiffusionXLPipeline

    pipeline = tiny_pipelines.sdxl()
    pipeline.tokenizer.model_max_length = pipeline.tokenizer_2.model_max_length = 77
    pipeline.save_pretrained(tmp_path / "sdxl")
    path = tmp_path / "forget_zebra.safetensors"
    forgetting = ForgetMeNot(
        folder=str(tmp_path / "sdxl"), erase_concept="zebra", save_path=str(path), device="cpu", **DRAWN
    )
    stock = StableDiffusionXLPipeline.from_pretrained(tmp_path / "sdxl")
    before = drawn_by(stock)
    stock.load_lora_weights(str(tmp_path), weight_name=path.name)
    after = drawn_by(stock)
    assert np.array_equal(pictures(forgetting), after) and not np.array_equal(before[0], after[0])


def test_options_of_a_call_go_before_the_settings(forgetting):
    assert not np.array_equal(pictures(forgetting), pictures(forgetting, num_inference_steps=2))
    assert not np.array_equal(pictures(forgetting), pictures(forgetting, guidance_scale=1.0))


def test_every_picture_has_a_seed_of_its_own(forgetting):
    both = [np.asarray(p) for p in forgetting.generate(PROMPTS[1:] * 2, seed=SEED)]
    (second,) = forgetting.generate(PROMPTS[1:], seed=SEED + 1)
    assert np.array_equal(both[1], np.asarray(second)) and not np.array_equal(*both)


def test_synonyms_are_phrases_of_the_same_concept(folder, tmp_path):
    path = tmp_path / "both.safetensors"
    ForgetMeNot(
        folder=str(folder), erase_concept="zebra", synonyms=["striped horse"], save_path=str(path), device="cpu"
    )
    assert [c["phrases"] for c in load_patch(path).concepts] == [["zebra", "striped horse"]]


def test_null_is_the_default(folder, patch, forgetting):
    technique = ForgetMeNot(folder=str(folder), patch=str(patch), device=None, num_inference_steps=None)
    assert technique.settings.num_inference_steps == 50


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "got neither"),
        ({"erase_concept": "  "}, "got neither"),
        ({"erase_concept": "zebra"}, "no model_index.json"),
        ({"folder": "no/such/folder", "erase_concept": "zebra"}, "no/such/folder"),
        ({"folder": "FOLDER/unet", "erase_concept": "zebra"}, "no model_index.json"),
        ({"folder": "FOLDER", "patch": "no_such.safetensors"}, "found none at no_such.safetensors"),
        ({"folder": "FOLDER", "patch": "FOLDER/model_index.json"}, "corrupt"),
        ({"folder": "FOLDER", "patch": "a", "save_path": "b"}, "only for a patch that is made here"),
        ({"folder": "FOLDER", "erase": "zebra"}, "got 'erase'"),
        ({"folder": "FOLDER", "erase_concept": ["zebra"]}, "Expected erase_concept as str"),
        ({"erase_concept": "zebra", "preserve_prompts": "dog"}, "Expected preserve_prompts as list"),
        ({"erase_concept": "zebra", "num_inference_steps": True}, "Expected num_inference_steps"),
        ({"erase_concept": "zebra", "num_inference_steps": 0}, "1 or more"),
        ({"folder": "FOLDER", "erase_concept": "zebra", "kind": "animal"}, "animal"),
        ({"folder": "FOLDER", "erase_concept": "zebra", "device": "abacus"}, "abacus"),
        ({"folder": "FOLDER", "erase_concept": "zebra", "save_path": "FOLDER/model_index.json/x"}, "Expected to write"),
    ],
)
def test_bad_settings_are_told(folder, config, message):
    config = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in config.items()}
    with pytest.raises(ForgetError, match=message):
        ForgetMeNot(**config)


def without(folder: Path, tmp_path: Path, **changed: str | None) -> str:
    """A copy of the folder with files changed, or left out where the text is None."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for name, text in changed.items():
        path = next(copy.rglob(name.replace("__", ".")))
        path.unlink() if text is None else path.write_text(text)
    return str(copy)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_index__json": '{"_class_name": "FluxPipeline"}'}, "got FluxPipeline"),
        ({"model_index__json": '{"_class_name": ["code", "Mine"]}'}, "got .'code', 'Mine'"),
        ({"model_index__json": "[]"}, "got None"),
        ({"model_index__json": "{"}, "no model_index.json that can be read"),
        ({"diffusion_pytorch_model__safetensors": None}, "Expected a whole pipeline with safetensors weights"),
        ({"diffusion_pytorch_model__safetensors": "not weights"}, "Expected a whole pipeline with safetensors weights"),
        ({"model__safetensors": "not weights"}, "Expected a whole pipeline with safetensors weights"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_told(folder, tmp_path, changed, message):
    with pytest.raises(ForgetError, match=message):
        ForgetMeNot(folder=without(folder, tmp_path, **changed), erase_concept="zebra", device="cpu")


@pytest.mark.parametrize("change", ["name", "shape"])
def test_a_patch_of_another_architecture_is_told(folder, patch, forgetting, tmp_path, change):
    other = load_patch(patch)
    name, factors = next(iter(other.factors.items()))
    if change == "name":
        other.factors[name.replace("down_blocks_0", "down_blocks_7")] = other.factors.pop(name)
    else:
        factors.up = factors.up[:-1]
    path = tmp_path / "other.safetensors"
    save_patch(other, path)
    with pytest.raises(ForgetError, match="got one with 1 of"):
        ForgetMeNot(folder=str(folder), patch=str(path), device="cpu")


def test_another_base_model_is_warned_of(folder, patch, forgetting, tmp_path, caplog):
    other = load_patch(patch)
    other.base["norms"] = [1.1 * n for n in other.base["norms"]]
    save_patch(other, tmp_path / "other.safetensors")
    ForgetMeNot(folder=str(folder), patch=str(tmp_path / "other.safetensors"), device="cpu")
    assert "made on another base model" in caplog.text


# --- as pip installs it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip installed the pack, from a copy: building leaves files beside the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(comfy_host.REPOSITORY / name, source)
    shutil.copytree(
        comfy_host.REPOSITORY / "fmn_core", source / "fmn_core", ignore=shutil.ignore_patterns("__pycache__")
    )
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


def run_installed(installed: Path, cwd: Path, *arguments: str) -> str:
    """What Python prints with the installed pack first on its path; offline."""
    path = [installed, comfy_host.SHIMS, comfy_host.REPOSITORY]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pip_installs_the_method_its_data_and_the_entry_point(installed, tmp_path):
    assert {p.name for p in installed.iterdir()} - {"bin"} == {"fmn_core", next(installed.glob("*.dist-info")).name}
    code = """
import fmn_core, fmn_core.concepts.preserve, fmn_core.concepts.presets
from importlib.metadata import entry_points
(point,) = [e for e in entry_points(group="eval_unlearn.techniques") if e.name == "forget_me_not"]
print(fmn_core.__file__, point.load().__name__)
"""
    assert run_installed(installed, tmp_path, "-c", code).split() == [
        str(installed / "fmn_core" / "__init__.py"),
        "ForgetMeNot",
    ]
    data = {p.relative_to(installed) for p in (installed / "fmn_core" / "concepts" / "data").rglob("*") if p.is_file()}
    ours = (comfy_host.REPOSITORY / "fmn_core" / "concepts" / "data").rglob("*")
    assert data == {p.relative_to(comfy_host.REPOSITORY) for p in ours if p.is_file()}


def test_the_host_still_reads_the_project():
    comfy_host.activate()
    from comfy_config.config_parser import extract_node_configuration

    found = extract_node_configuration(str(comfy_host.REPOSITORY))
    assert found.project.name == "forget-me-not" and found.tool_comfy.publisher_id == "forget-me-not"


def imported_packages() -> set[str]:
    """Top-level packages outside the standard library that fmn_core imports, in functions too."""
    found = set()
    for path in (comfy_host.REPOSITORY / "fmn_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names)


def test_pip_is_told_all_that_is_imported(installed):
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text()
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)(?![^\n]*extra ==)", metadata, re.MULTILINE))
    # A pipeline's own packages, and what a score asks for by name when it is missing.
    optional = {"diffusers", "transformers", "torchmetrics"}
    assert imported_packages() - optional - {"pydantic_core"} == required


# --- in eval-unlearn --------------------------------------------------------------------------------------------------

NEEDS_EVAL_UNLEARN = pytest.mark.skipif(
    importlib.util.find_spec("eval_unlearn") is None,
    reason="eval-unlearn is not installed; with what it needs it is 70 MB to download: pip install eval-unlearn==1.1.2",
)


@NEEDS_EVAL_UNLEARN
def test_eval_unlearn_lists_the_technique(installed, tmp_path):
    listed = run_installed(installed, tmp_path, "-m", "eval_unlearn.cli", "plugins")
    assert "forget_me_not" in listed.split("Techniques:")[1].split("Metrics:")[0].split()


@pytest.fixture
def seen(installed, folder, tmp_path):
    """What the judge sees in two pictures of a zebra and two of a dog, drawn by a technique in eval-unlearn's runner."""
    asked = [[caption_of(name, style), name] for name in ("zebra", "dog") for style in ("noto", "twemoji")]
    script = comfy_host.REPOSITORY / "tests" / "judge_in_eval_unlearn.py"

    def run(technique: str, **config) -> list[str]:
        drawn = {"device": "cpu", "num_inference_steps": 12, "guidance_scale": 3.0}
        request = {"technique": technique, "technique_config": config | drawn, "asked": asked, "seed": SEED}
        request["output_dir"] = str(tmp_path / "results")
        report = json.loads(run_installed(installed, tmp_path, str(script), json.dumps(request)).splitlines()[-1])
        assert (report["technique_name"], report["erase_concept"]) == (technique, config.get("erase_concept"))
        assert len(list((tmp_path / "results").rglob("*.png"))) == len(asked)
        return report["metric_result"]["details"]["seen"]

    return run


@NEEDS_EVAL_UNLEARN
def test_eval_unlearns_own_technique_draws_the_concept(seen, folder):
    assert seen("free_run", model_id=str(folder)) == ["zebra", "zebra", "dog", "dog"]


@NEEDS_EVAL_UNLEARN
@pytest.mark.parametrize("made", ["from a file", "by the technique"])
def test_in_eval_unlearns_runner_the_concept_is_forgotten_and_another_is_not(seen, folder, patch, forgetting, made):
    given = {"patch": str(patch)} if made == "from a file" else {"preserve_prompts": OTHERS}
    found = seen("forget_me_not", folder=str(folder), erase_concept="zebra", **given)
    assert "zebra" not in found[:2] and found[2:] == ["dog", "dog"]
