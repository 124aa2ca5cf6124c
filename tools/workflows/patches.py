"""Workflows on patches: merged, gated, looked into, scored."""

from __future__ import annotations

from tools.workflows.spec import NAMES, STYLED, Node, Workflow, compare, forget, miniature


def _sampled(
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


def gate() -> Workflow:
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
                    *_sampled("before", "without the patch", "model", (("text", 0), ("negative", 0))),
                    *_sampled("after", "behind the gate", "model", (("gate", 0), ("gate", 1))),
                ),
            ),
            ("before and after", (report,)),
        ),
        "report",
    )


def attention_of_a_patch() -> Workflow:
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


def _score_nodes() -> dict[str, Node]:
    """The nodes that score, by key, each with the scores of the one before."""
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
        "accuracies", "FMN_ForgetAccuracies", "", {"concept": "zebra", "labels": NAMES, "other_labels": "horse"},
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
    nodes = (clip_before, clip_after, accuracies, distance, m_score, attack, report, figure)
    return {node.key: node for node in nodes}


def score() -> Workflow:
    def drawn(key: str, prompts: list[str], title: str) -> Node:
        node = compare(prompts, title=title, pictures=4)
        return Node(key, node.type, title, node.widgets, node.inputs, 340)

    of = _score_nodes()
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
7. **Forgetting Report**: all of it in one figure.

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
            ("scores", tuple(of[key] for key in ("clip before", "clip after", "accuracies", "distance"))),
            ("of the model", (of["m score"], of["attack"])),
            ("report", (of["report"], of["figure"])),
        ),
        "report",
    )
