"""Memory of a real server over many trainings: what one leaves behind must not add up."""

import statistics

import pytest

from bench.server_memory import memory_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14400)]
CYCLES = 60


def test_resident_memory_is_flat_over_the_last_third():
    """Every cycle trains, applies, draws and frees; medians of ten, as single readings vary by what the allocator keeps."""
    megabytes = [row["megabytes"] for row in memory_rows(CYCLES)]
    before, after = statistics.median(megabytes[40:50]), statistics.median(megabytes[50:])
    assert after - before < 0.02 * before, megabytes
