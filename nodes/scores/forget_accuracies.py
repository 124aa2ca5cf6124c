"""Forget Accuracies: UA, IRA, CRA and the harmonic mean H_o, with a zero-shot classifier as the judge."""

from __future__ import annotations

import copy
from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.accuracies import harmonic_mean_of_erasure, retain_accuracy, unlearning_accuracy
from ...fmn_core.scores.clip_score import zero_shot
from ..adapter.references import checked_images
from ..host.node_api import CATEGORY, io
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
        score_rows.image_text(),
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
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetAccuracies",
            display_name="Forget Accuracies",
            category=CATEGORY,
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
        erased, rows = judge.still_seen(forgotten), []
        rows.append(judge.unlearning("UA", erased, "no longer seen as", label))
        shares = {"erased": 1 - rows[0]["value"]}
        if synonyms is not None:
            rows.append(judge.unlearning("UA of synonyms", judge.still_seen(synonyms), "no longer seen as", label))
            shares["generality"] = 1 - rows[-1]["value"]
        if others is not None:
            rows.append(judge.retaining("IRA", others, other_labels, label))
            shares["specificity"] = rows[-1]["value"]
        if cross is not None:
            rows.append(judge.of_other_kind(cross_choices).retaining("CRA", cross, cross_labels, label))
        missing = [name for name, images in (("synonyms", synonyms), ("others", others)) if images is None]
        if not missing:
            rows.append(
                score_rows.row("H_o", harmonic_mean_of_erasure(**shares), None, "of UA, UA of synonyms and IRA", label)
            )
        report = score_rows.report(rows) + (f"\nno H_o: connect {' and '.join(missing)}" if missing else "")
        return io.NodeOutput(score_rows.longer(scores, rows), report)


class _Judge:
    """Zero-shot labels of pictures, and rows of how often they are right."""

    def __init__(self, image_text: Any, concept: str, labels: str):
        self.model, self.concept = score_rows.checked_model(image_text), concept.strip()
        if not self.concept:
            raise ForgetError("Expected the label of the forgotten concept, got none. Type it under concept.")
        self._choose_among([*score_rows.lines_of(labels), self.concept])

    def _choose_among(self, labels: list[str]) -> None:
        self.labels = list(dict.fromkeys(labels))
        self.by = f"zero-shot by {self.model.name} among {len(self.labels)} labels"

    def of_other_kind(self, choices: str) -> _Judge:
        """The same judge with the labels of another kind."""
        other = copy.copy(self)
        other._choose_among(score_rows.lines_of(choices))
        return other

    def still_seen(self, images: Any) -> list[str]:
        return zero_shot(self.model, checked_images(images), self.labels)

    def unlearning(self, score: str, seen: list[str], what: str, label: str) -> dict[str, Any]:
        hits = [float(s != self.concept) for s in seen]
        note = f"{int(sum(hits))} of {len(seen)} {what} {self.concept}; {self.by}"
        return score_rows.row(score, unlearning_accuracy(seen, self.concept), hits, note, label)

    def retaining(self, score: str, images: Any, other_labels: str, label: str) -> dict[str, Any]:
        seen, wanted = self.still_seen(images), score_rows.lines_of(other_labels)
        wanted = wanted * len(seen) if len(wanted) == 1 else wanted
        unknown = sorted(set(wanted) - set(self.labels))
        if unknown or len(wanted) != len(seen):
            got = (
                f"{', '.join(unknown)}, which labels does not list"
                if unknown
                else f"{len(wanted)} for {len(seen)} pictures"
            )
            raise ForgetError(
                f"Expected for {score} one label for all pictures, or one a picture, out of its labels, got {got}."
            )
        hits = [float(a == b) for a, b in zip(seen, wanted)]
        note = f"{int(sum(hits))} of {len(seen)} seen as asked for; {self.by}"
        return score_rows.row(score, retain_accuracy(seen, wanted), hits, note, label)
