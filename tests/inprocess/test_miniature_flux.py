"""The shipped miniature FLUX: its files, its export to diffusers, and what the judge sees in its scenes."""

import hashlib
import json

import pytest
import torch
from forget_me_not.nodes import host

from bench.concept_bench.concepts import MINIATURE_FLUX
from bench.concept_bench.tasks import tasks_of
from bench.concept_bench.worker import work
from mini_flux.captions import ON_GROUNDS, PAIRS, caption
from mini_flux.config import HERE
from mini_flux.judge import load_judge, look_at
from mini_flux.things import THINGS, held_out
from mini_sd.generate import generate

WEIGHTS = HERE / "weights"
PROMPT = "a picture of a panda to the left of a guitar on a blue ground in noto style"


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return host.load_miniature_flux()


def test_weights_are_those_recorded_and_small():
    recorded = dict(line.split()[::-1] for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    assert {p.name for p in WEIGHTS.glob("*.safetensors")} == set(recorded)
    for name, digest in recorded.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest
    assert sum((WEIGHTS / f"{stem}.safetensors").stat().st_size for stem in ("mini_flux", "vae")) <= 20e6


def test_the_world_is_as_large_as_it_says():
    assert len(THINGS) >= 48 and sum(thing.kind == "identity" for thing in THINGS) >= 12
    pairs = [(a.name, b.name) for a in THINGS for b in THINGS if a.name < b.name]
    assert 0.07 < sum(held_out(*pair) for pair in pairs) / len(pairs) < 0.13
    assert all(len(forms) >= 7 for forms in (*PAIRS.values(), ON_GROUNDS))


def test_it_reaches_what_its_page_says():
    figures, page = json.loads((HERE / "samples.json").read_text()), (HERE / "README.md").read_text()
    for kind, least in (("trained on", 0.85), ("held out", 0.75)):
        assert min(figures[kind][name] for name in ("one thing", "both things")) >= least
        assert figures[kind]["ground"] >= 0.95 and figures[kind]["style"] >= 0.75
        row = " | ".join(f"{figures[kind][name]:.2f}" for name in ("one thing", "both things", "ground", "style"))
        assert f"| {kind} | {row} |" in page


def test_scenes_show_what_their_prompt_says(flux):
    seen = look_at(load_judge(), generate(*flux, [PROMPT] * 8, list(range(8)), steps=12))
    assert sum(s.things == {"left": "panda", "right": "guitar"} for s in seen) >= 6
    assert all(s.grounds == ("blue", "blue") for s in seen)


def test_captions_held_out_are_not_trained_on():
    import random

    from mini_flux.scenes import LEFT_OF, Placed, Scene

    scene = Scene((Placed("zebra", "big"), Placed("guitar", "small")), LEFT_OF, ("blue",), "noto")
    rng = random.Random(0)
    trained, unseen = ({caption(scene, rng, unseen=flag) for _ in range(300)} for flag in (False, True))
    assert not trained & unseen
    assert all("just left of" in text and "wall" in text for text in unseen)


def test_export_to_diffusers_predicts_the_same(flux, tmp_path):
    from diffusers import FluxPipeline

    from mini_flux.export_diffusers import build_pipeline

    build_pipeline().save_pretrained(tmp_path)
    pipe, (model, clip, vae) = FluxPipeline.from_pretrained(tmp_path), flux
    with torch.inference_mode():
        context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
        rows, vector, text_ids = pipe.encode_prompt(PROMPT, PROMPT, max_sequence_length=context.shape[1])
        torch.testing.assert_close(rows, context.float(), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(vector, pooled.float(), atol=2e-3, rtol=1e-3)
        x, t = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.8])
        ours = model.model.diffusion_model(x, t, context=context, y=pooled)
        theirs = pipe.transformer(
            hidden_states=pipe._pack_latents(x, 1, 16, 16, 16), timestep=t, pooled_projections=pooled, encoder_hidden_states=context,
            txt_ids=text_ids, img_ids=pipe._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32), return_dict=False,
        )[0]  # fmt: skip
        torch.testing.assert_close(pipe._unpack_latents(theirs, 128, 128, 8), ours, atol=1e-3, rtol=1e-3)
        picture = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
        hosts = vae.decode(model.model.process_latent_out(x)).movedim(-1, 1) * 2 - 1
        torch.testing.assert_close(picture.clamp(-1, 1), hosts, atol=1e-2, rtol=1e-2)


@pytest.mark.slow
def test_concept_bench_measures_a_cell_of_it():
    [task] = tasks_of(["closed form"], [("cat",)], 1, "tiny", model=MINIATURE_FLUX)
    outcome = work(task, "x")
    assert outcome.row is not None, outcome.error
    assert outcome.row["figures"]["UA"] > outcome.row["figures"]["UA_before"]
