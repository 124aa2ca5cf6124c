"""The training nodes on the host's own objects, inside this process: what they leave alone, and what no graph can give them."""

from types import SimpleNamespace

import pytest
import torch
from forget_me_not.nodes.forget.concept_correction import ConceptCorrection
from forget_me_not.nodes.forget.train_patch import TrainForgetPatch
from forget_me_not.nodes.training.invert_concept import InvertConcept
from forget_me_not.nodes.training.training_options import TrainingOptions
from forget_me_not.nodes.training.visual_pairs import VisualDenoisingPairs
from forget_me_not.nodes.ui.forget_options import ForgetOptions
from inprocess.interrupting import interrupted
from model_state import assert_untouched, state
from prompts import INVERSION, correct, invert, options, pairs, train_inputs

from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import concept_from_text
from fmn_core.errors import ForgetError

RESTEERING, BOTH = "attention re-steering", "re-steering and visual denoising"


@pytest.fixture(scope="module")
def run(miniature):
    """Runs a node as the host does: in inference mode, with the prompt's links to the miniature in place."""
    nodes = {
        "train": (TrainForgetPatch, lambda: train_inputs(file_name="")),
        "pairs": (VisualDenoisingPairs, lambda: pairs()["pairs"]["inputs"]),
        "invert": (InvertConcept, lambda: invert(file_name="")["invert"]["inputs"]),
        "correct": (ConceptCorrection, lambda: correct(file_name="")["correct"]["inputs"]),
    }

    def execute(node, **changes):
        kind, inputs = nodes[node]
        parts = dict(zip(("model", "clip", "vae"), miniature))
        inputs = inputs() | {k: v for k, v in parts.items() if k in inputs()}
        with torch.inference_mode():
            if "images" in inputs:
                inputs["images"] = noise_images()
            return kind.execute(**inputs | changes).args

    return execute


def noise_images(count=2, side=128, channels=3):
    return torch.rand(count, side, side, channels, generator=torch.Generator().manual_seed(0))


def chosen(**changes):
    return TrainingOptions.execute(**options(**changes)["options"]["inputs"]).args[0]


ATTACKED = ForgetOptions(closed_form=ClosedFormSettings(imagined_words=20), attack_rounds=1)
RUNS = {
    "inversion": ("invert", {}),
    "correction": ("correct", {}),
    "fp16": ("train", {"method": RESTEERING, "options": chosen(precision="fp16")}),
    "bf16, whole UNet": ("train", {"method": RESTEERING, "train": "whole UNet", "options": chosen(precision="bf16")}),
    "checkpointing": ("train", {"method": BOTH, "options": chosen(checkpointing=True, weights="full delta")}),
    "pairs": ("pairs", {}),
    "attacks": ("train", {"options": ATTACKED}),
}


SLOW_RUNS = ("fp16", "correction", "checkpointing")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW_RUNS else c for c in RUNS])
def test_model_and_clip_are_untouched(run, miniature, case):
    model, clip, _ = miniature
    node, changes = RUNS[case]
    prompt = clip.tokenize("a picture of a zebra in noto style")
    with torch.inference_mode():
        text = clip.encode_from_tokens(prompt).clone()
    before, predicted = state(model, clip), prediction(model)
    run(node, **changes)
    assert_untouched(model, clip, before)
    assert torch.equal(prediction(model), predicted)
    with torch.inference_mode():
        assert torch.equal(clip.encode_from_tokens(prompt), text)


def prediction(model):
    """What the host predicts with this MODEL, loaded as its sampler would."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        g = torch.Generator().manual_seed(0)
        x, context = torch.randn(1, 4, 16, 16, generator=g), torch.randn(1, 77, 96, generator=g)
        return model.model.apply_model(x, torch.tensor([2.0]), c_crossattn=context).clone()


@pytest.mark.parametrize("node", ["invert", "correct", "pairs", "train"])
def test_an_interrupted_run_leaves_model_and_clip_untouched(run, miniature, monkeypatch, node):
    before = state(*miniature[:2])

    with interrupted(monkeypatch):
        # pairs and pictures of other seeds are in the cache
        run(node, seed=99, **({"options": ATTACKED} if node == "train" else {}))
    assert_untouched(*miniature[:2], before)


@pytest.mark.parametrize(
    ("method", "weights"), [pytest.param(RESTEERING, "LoRA", marks=pytest.mark.slow), (BOTH, "full delta")]
)
def test_checkpointing_gives_the_same_patch(run, method, weights):
    found = []
    for checkpointing in (False, True):
        settings = chosen(checkpointing=checkpointing, weights=weights, accumulation=2)
        found.append(run("train", method=method, train="whole UNet", options=settings, rank=4)[1])
    for name, factors in found[0].factors.items():
        delta = factors.delta()
        torch.testing.assert_close(found[1].factors[name].delta(), delta, atol=1e-6, rtol=1e-3)
    assert max(float(f.delta().abs().max()) for f in found[0].factors.values()) > 1e-4


def test_a_concept_that_is_typed_and_connected_is_refused(run):
    concept = concept_from_text("zebra\nstriped horse")
    for node in ("train", "pairs"):
        with pytest.raises(ForgetError, match="Expected every concept once, got the phrase 'Zebra' twice"):
            run(node, phrase="Zebra", concepts=(concept,))


def test_a_correction_wants_images_or_an_inverted_concept(run):
    with pytest.raises(
        ForgetError, match="Expected images of the dominant meaning or an inverted concept, got neither"
    ):
        run("correct", images=None)


@pytest.mark.parametrize("node", ["train", "invert", "correct"])
@pytest.mark.parametrize(
    "images",
    [noise_images(0), noise_images(channels=2), noise_images(channels=1), noise_images() * float("nan")],
    ids=["none", "two channels", "grey", "NaN"],
)
def test_images_that_no_node_should_give(run, miniature, node, images):
    changes = {"method": RESTEERING, "vae": miniature[2]} if node == "train" else {}
    with pytest.raises(ForgetError, match="Expected") as caught:
        run(node, images=images, **changes)
    assert "picture" in str(caught.value) or "images" in str(caught.value)


@pytest.mark.parametrize("node", ["train", "pairs", "invert", "correct"])
def test_models_without_cross_attention_and_missing_clips_are_refused(run, node):
    unet = SimpleNamespace(diffusion_model=torch.nn.Linear(2, 2))
    other = SimpleNamespace(model=unet, load_device=torch.device("cpu"))
    with pytest.raises(ForgetError, match="a UNet with cross-attention.*got Linear"):
        run(node, model=other)
    with pytest.raises(ForgetError, match="Expected a CLIP, got none"):
        run(node, clip=None)


def test_two_inverted_concepts_keep_their_own_pairs(run):
    concepts = [run("invert", seed=seed, start="noise")[0][0] for seed in (0, 1)]
    assert concepts[0].label() == concepts[1].label()
    made, picture = run("pairs", phrase="", concepts=tuple(concepts))
    assert len(made) == 2 and picture.shape == (1, 512, 256, 3)
    first, second = made.values()
    assert not torch.equal(first.kept, second.kept)
    run("train", phrase="", method="visual denoising", concepts=tuple(concepts), pairs=made, options=chosen())


def test_the_inverted_concept_carries_pictures_that_autograd_accepts(run):
    [concept] = run("invert")[0]
    assert not concept.images.is_inference() and concept.images.shape == (2, 128, 128, 3)
    assert {k: tuple(v.shape) for k, v in concept.embedding.items()} == {"l": (INVERSION["tokens"], 96)}
