"""ConceptBench's cache of what the untouched model draws."""

import torch

from bench.concept_bench.baseline_cache import BaselineCache


def test_kept_pictures_are_made_once_and_depend_on_the_model(tmp_path):
    made = []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.full((1, 2, 2, 3), len(made), dtype=torch.uint8)

    first, same, other = (BaselineCache(tmp_path, about) for about in (["a"], ["a"], ["b"]))
    found = [kept.images([20, ["p"]], make) for kept in (first, first, same, other)]
    assert [int(images[0, 0, 0, 0]) for images in found] == [1, 1, 1, 2] and found[0].dtype == torch.uint8
    assert int(first.images([30, ["p"]], make)[0, 0, 0, 0]) == 3
