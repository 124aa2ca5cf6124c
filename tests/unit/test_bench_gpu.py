"""bench.gpu where there is no GPU: what it says, what it keeps, and the page."""

import subprocess
import sys

import pytest
import torch

from bench.gpu import ResultFile, page, parts
from tools.comfy_host import REPOSITORY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"], cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 2 and "found none" in done.stderr and "Traceback" not in done.stderr


def test_rows_are_kept_as_they_come_and_found_again(tmp_path):
    ResultFile(tmp_path).add(kind="table", model="SDXL", method="closed form", seconds=1.0, peak_mb=9, note="")
    again = ResultFile(tmp_path)
    assert again.has(kind="table", model="SDXL", method="closed form")
    assert not again.has(kind="table", model="SDXL", method="inversion")


def test_the_page_names_what_failed_and_compares_memory(tmp_path):
    rows = ResultFile(tmp_path)
    for method, peak in (("one sampling step with guidance", 100), ("closed form", 110)):
        rows.add(kind="table", model="SD 1.5", method=method, seconds=1.0, peak_mb=peak, note="")
    for case, problems in (("resteering", ""), ("visual", "plot differs by 1.0e+00")):
        rows.add(kind="case", configuration="fp16 weights", case=case, problems=problems, seconds=2.0, peak_mb=1.0)
    text = page(rows, "a card", "python -m bench.gpu", ["table SDXL (no time left)"])
    assert "| SD 1.5 | closed form | 1.00 | 110 | 1.10 |" in text
    assert "1 of 2 ran" in text and "plot differs by 1.0e+00" in text and "Not run: table SDXL (no time left)." in text


def test_what_is_worth_most_comes_first():
    assert parts(["SD 1.5"])[:2] == [("cases", "all on the device"), ("table", "SD 1.5")]
