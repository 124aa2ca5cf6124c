"""The node Forgetting Report, and the folders that it saves in."""

import pytest
import torch
from forget_me_not.nodes.scores.forget_report import ForgetReport
from inprocess.forget_report.parts import BLUE, RED, plain


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The host's output folder, empty; its folder of temporary files is elsewhere."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.fixture
def run():
    """The node with red pictures before and blue ones after, in the host's inference mode; figure, JSON and ui."""

    def execute(before=None, after=None, node=None, **inputs):
        before, after = plain(RED) if before is None else before, plain(BLUE) if after is None else after
        with torch.inference_mode():
            found = (node or ForgetReport).execute(before, after, **inputs)
        return *found.args, found.ui

    return execute
