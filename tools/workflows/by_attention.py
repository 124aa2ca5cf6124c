"""Workflows of the paper: trainings by gradient, and attention taken away while sampling."""

from __future__ import annotations

from tools.workflows.spec import NAMES, STYLED, WIRES, Node, Workflow, compare, miniature, picture


def mask() -> Workflow:
    mask_node = Node(
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
            (
                "where it is",
                (mask_node, Node("masked", "PreviewImage", "in red: the mask", {}, {"images": ("mask", 1)})),
            ),
            ("train", (train,)),
            (
                "before and after",
                (compare([STYLED.format("zebra"), STYLED.format("horse")], ("train", 0), ("train", 1)),),
            ),
        ),
        "compare",
    )


def visual() -> Workflow:
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


def zero_attention() -> Workflow:
    prompts = [STYLED.format("zebra"), STYLED.format("horse")]
    zero = Node(
        "zero",
        "FMN_ZeroConceptAttention",
        widgets={"phrase": "zebra", "prompts": "\n".join(prompts), "end_token": "all"},
        inputs=WIRES,
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
