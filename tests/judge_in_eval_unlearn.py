"""Runs a technique in eval-unlearn's own runner, with the miniature's judge as metric: python judge_in_eval_unlearn.py REQUEST

REQUEST is JSON: technique, technique_config, asked (pairs of a prompt and what it asks for), seed, output_dir. Prints, as last line, the report as JSON.
eval-unlearn's own metrics all start with a download; its discovery, validation, runner and report are those of any run.
"""

import json
import sys

import torch
from eval_unlearn.registry import register_metric
from eval_unlearn.runners import SingleBenchmarkRunner
from eval_unlearn.types import Dataset, MetricResult
from torchvision.transforms.functional import pil_to_tensor

from mini_sd.judge import classify, load_judge


@register_metric("judge")
class Judge:
    """Share of the pictures in which the judge sees what the prompt asks for, and what it sees in each."""

    def __init__(self, asked: list[list[str]]):
        self.asked = asked
        self.seen: list[str] = []

    def load_dataset(self) -> list[Dataset]:
        return [Dataset([prompt for prompt, _ in self.asked], {"source": "test"})]

    def update(self, images, prompts, metadata) -> None:
        pictures = torch.stack([pil_to_tensor(image).movedim(0, -1) / 255 for image in images])
        self.seen += classify(load_judge(), pictures)[0]

    def compute(self) -> MetricResult:
        right = [seen == wanted for seen, (_, wanted) in zip(self.seen, self.asked)]
        return MetricResult("judge", sum(right) / len(right), {"seen": self.seen})


def main() -> None:
    request = json.loads(sys.argv[1])
    runner = SingleBenchmarkRunner(
        technique_name=request["technique"],
        metric_name="judge",
        technique_config=request["technique_config"],
        metric_config={"asked": request["asked"]},
        output_dir=request["output_dir"],
        seed=request["seed"],
    )
    print(json.dumps(runner.run()))


if __name__ == "__main__":
    main()
