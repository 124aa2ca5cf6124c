"""Clear Forget Cache through the real server."""

import torch

from fmn_core.cache import Cache

CLEAR = {"clear": {"class_type": "FMN_ClearForgetCache", "inputs": {}}}


def test_the_cache_is_cleared_every_time_and_nothing_else(server):
    cache = Cache(server.base / "temp" / "forget_me_not")
    cache.clear()  # of what other tests left in it
    for expected in (3_000_000, 1_000_000):
        assert cache.put("k", {"x": torch.zeros(expected // 4)}) and cache.size() > expected
        other = cache.folder / "mine.safetensors"
        other.write_text("mine")
        prompt = CLEAR | {"show": {"class_type": "PreviewAny", "inputs": {"source": ["clear", 0]}}}
        outputs = server.run(prompt)
        report = f"freed {expected / 1e6:.1f} MB in {cache.folder}"
        assert outputs["clear"]["text"] == [report] and outputs["show"]["text"] == [report]
        assert cache.size() == 0 and other.read_text() == "mine"
    assert server.run(CLEAR)["clear"]["text"][0].startswith("freed 0.0 MB in ")
