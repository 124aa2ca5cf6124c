"""Workflows that forget on the miniature, in closed form."""

from __future__ import annotations

from tools.workflows.spec import (
    FORGET_AND_LOOK,
    SCENE,
    STYLED,
    WIRES,
    Node,
    Workflow,
    compare,
    forget,
    miniature,
    miniature_flux,
    picture,
)


def starter() -> Workflow:
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
        app_inputs=FORGET_AND_LOOK,
        app_outputs=("forget", "compare"),
    )


def scene() -> Workflow:
    prompts = [
        SCENE.format("a {phrase} to the left of a guitar", "blue"),
        SCENE.format("a house above a {phrase}", "green"),
        SCENE.format("a house to the left of a guitar", "yellow"),
    ]
    return Workflow(
        "15 Forget a thing in a scene",
        """# Forget a thing in a scene

Runs on the miniature FLUX that ships with the pack; nothing else is needed. It draws scenes of one or two things.

1. **Forget Concept** forgets *panda* where text enters the transformer: at the rows of T5 and at the pooled vector of CLIP.
2. **Compare** draws the same prompts and seeds before and after. Look at what stands beside the panda, at the ground, and at what takes the panda's place.

On your own model: put *Load Diffusion Model* with FLUX.1, *DualCLIPLoader* and *Load VAE* in place of *Load Miniature FLUX*, and *cfg* 1 in Compare.""",
        (
            ("model", (miniature_flux(),)),
            ("forget", (forget("panda", inputs={"vae": ("model", 2)}, test_prompt=prompts[0]),)),
            ("before and after", (compare(prompts, pictures=2),)),
        ),
        "compare",
        app_inputs=FORGET_AND_LOOK,
        app_outputs=("forget", "compare"),
    )


def several() -> Workflow:
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


def inverted() -> Workflow:
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


def style() -> Workflow:
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

Things in that style may suffer under an inverted style; one that has a word is better typed: *forget* twemoji, kind style.""",
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


def correction() -> Workflow:
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
