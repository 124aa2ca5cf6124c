"""Forget Accuracies: UA, IRA, CRA and the harmonic mean H_o, judged by a zero-shot classifier."""

from __future__ import annotations

import copy
from typing import Any

from ...fmn_core.concepts.templates import split_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.accuracies import harmonic_mean_of_erasure, retain_accuracy, unlearning_accuracy
from ...fmn_core.scores.clip_score import zero_shot
from ..adapter.references import checked_images
from ..host.node_api import Menu, io
from . import score_rows


def _inputs() -> list[Any]:
    return [
        io.Image.Input("forgotten", tooltip="Pictures of prompts that name the concept, sampled after forgetting."),
        io.String.Input("concept", default="", tooltip="The label of what was forgotten, in a word or two: zebra."),
        io.String.Input(
            "labels",
            default="",
            multiline=True,
            tooltip="Everything that the classifier may answer, one label a line; the concept is always one of them. "
            "Few or strange labels make any accuracy meaningless.",
        ),
        score_rows.image_text_input(),
        io.Image.Input(
            "synonyms", optional=True, tooltip="Pictures of prompts with synonyms of the concept, after forgetting."
        ),
        io.Image.Input("others", optional=True, tooltip="Pictures of other concepts, after forgetting."),
        io.String.Input(
            "other_labels",
            default="",
            multiline=True,
            optional=True,
            tooltip="What was asked for in the pictures of other concepts: one line for all, or one a picture.",
        ),
        *score_rows.optional_inputs(),
        *_cross_inputs(),
    ]


def _cross_inputs() -> list[Any]:
    """Inputs for pictures that are judged by the other kind (style or thing)."""
    return [
        io.Image.Input(
            "cross",
            optional=True,
            tooltip="Pictures judged by the other kind: their styles where a thing was forgotten, their things where a style was.",
        ),
        io.String.Input(
            "cross_labels",
            default="",
            multiline=True,
            optional=True,
            tooltip="What of the other kind was asked for in these pictures: one line for all, or one a picture.",
        ),
        io.String.Input(
            "cross_choices",
            default="",
            multiline=True,
            optional=True,
            tooltip="Everything of the other kind that the classifier may answer, one label a line.",
        ),
    ]


class ForgetAccuracies(io.ComfyNode):
    """Scores how often a classifier sees the right label after forgetting."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetAccuracies",
            display_name="Forget Accuracies",
            category=Menu.MEASURE,
            description="How often a classifier no longer sees the concept (UA), still sees other concepts (IRA) and what is of another kind (CRA), and "
            "the harmonic mean with synonyms (H_o). The judge is a zero-shot classifier: the label whose text is nearest to the picture.",
            inputs=_inputs(),
            outputs=[score_rows.scores_output(), score_rows.report_output()],
        )

    @classmethod
    def execute(
        cls,
        forgotten,
        concept,
        labels,
        image_text,
        synonyms=None,
        others=None,
        other_labels="",
        label="",
        scores=None,
        cross=None,
        cross_labels="",
        cross_choices="",
    ) -> io.NodeOutput:
        judge = _Judge(image_text, concept, labels)
        rows = [judge.unlearning_row("UA", forgotten, label)]
        shares = {"erased": 1 - rows[0]["value"]}
        if synonyms is not None:
            rows.append(judge.unlearning_row("UA of synonyms", synonyms, label))
            shares["generality"] = 1 - rows[-1]["value"]
        if others is not None:
            rows.append(judge.retaining_row("IRA", others, other_labels, label))
            shares["specificity"] = rows[-1]["value"]
        if cross is not None:
            rows.append(judge.with_labels(cross_choices).retaining_row("CRA", cross, cross_labels, label))
        missing = [name for name, images in (("synonyms", synonyms), ("others", others)) if images is None]
        if not missing:
            mean = harmonic_mean_of_erasure(**shares)
            rows.append(score_rows.score_row("H_o", mean, None, "of UA, UA of synonyms and IRA", label))
        report = score_rows.scores_report(rows) + (f"\nno H_o: connect {' and '.join(missing)}" if missing else "")
        return io.NodeOutput(score_rows.append_rows(scores, rows), report)


class _Judge:
    """A zero-shot classifier that labels pictures, and the rows of its accuracies.

    Parameters
    ----------
    image_text
        The image-text model.
    concept
        Label of the forgotten concept. It is always one of the labels.
    labels
        The labels to choose among, one a line.
    """

    def __init__(self, image_text: Any, concept: str, labels: str):
        self.model, self.concept = score_rows.check_image_text(image_text), concept.strip()
        if not self.concept:
            raise ForgetError("Expected the label of the forgotten concept, got none. Type it under concept.")
        self._set_labels([*split_lines(labels), self.concept])

    def _set_labels(self, labels: list[str]) -> None:
        self.labels = list(dict.fromkeys(labels))
        self.note = f"zero-shot by {self.model.name} among {len(self.labels)} labels"

    def with_labels(self, labels: str) -> _Judge:
        """The same judge with other labels to choose among."""
        judge = copy.copy(self)
        judge._set_labels(split_lines(labels))
        return judge

    def classify(self, images: Any) -> list[str]:
        """The label of each picture."""
        return zero_shot(self.model, checked_images(images), self.labels)

    def unlearning_row(self, score: str, images: Any, label: str) -> dict[str, Any]:
        """Share of pictures that are not seen as the concept."""
        seen = self.classify(images)
        hits = [float(s != self.concept) for s in seen]
        note = f"{int(sum(hits))} of {len(seen)} no longer seen as {self.concept}; {self.note}"
        return score_rows.score_row(score, unlearning_accuracy(seen, self.concept), hits, note, label)

    def retaining_row(self, score: str, images: Any, asked_labels: str, label: str) -> dict[str, Any]:
        """Share of pictures that are seen as asked for; `asked_labels`: one line for all pictures, or one a picture."""
        seen, asked = self.classify(images), split_lines(asked_labels)
        asked = asked * len(seen) if len(asked) == 1 else asked
        unknown = sorted(set(asked) - set(self.labels))
        if unknown or len(asked) != len(seen):
            got = (
                f"{', '.join(unknown)}, which labels does not list"
                if unknown
                else f"{len(asked)} for {len(seen)} pictures"
            )
            raise ForgetError(
                f"Expected for {score} one label for all pictures, or one a picture, out of its labels, got {got}."
            )
        hits = [float(a == b) for a, b in zip(seen, asked)]
        note = f"{int(sum(hits))} of {len(seen)} seen as asked for; {self.note}"
        return score_rows.score_row(score, retain_accuracy(seen, asked), hits, note, label)
