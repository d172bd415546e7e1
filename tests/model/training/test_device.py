"""The allocator of a training process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from model.training.device import keep_freed_memory
keep_freed_memory() if {kept} else None
for _ in range(20):  # until the heap has room for blocks of 64 MiB, 16,384 pages
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps its own rules")
def test_freed_memory_is_used_again() -> None:
    faults = {
        kept: int(subprocess.check_output([sys.executable, "-c", FAULTS.format(kept=kept)]).split()[-1])
        for kept in (True, False)
    }
    assert faults[True] < faults[False] / 4, faults
