"""Freed memory stays with the process while a trainer lives, and is given back after it."""

import subprocess
import sys

import pytest

from metaphase.core import heap

PROGRAM = """
import gc, resource
import torch
from metaphase.core.cell import Cell
from metaphase.core.training.trainer import PackTrainer

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 2**20

trainers = [PackTrainer([Cell(image_size=4, dataset="random")]) for _ in range(2)]
page_faults()  # small blocks may take a part of what is free, so that more is taken once
held = page_faults()
del trainers[0]
still_held = page_faults()
before = resident()
trainers.clear()
gc.collect()
shrunk = before - resident()  # a later block may stay where the one before it was
print(held, still_held, page_faults(), shrunk)
"""


@pytest.mark.skipif(heap._glibc() is None, reason="another C library than glibc")
def test_a_trainer_keeps_what_is_freed_and_gives_it_back():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    held, still_held, given_back, shrunk = map(int, done.stdout.split())
    assert given_back > 30  # 64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB
    assert max(held, still_held) < 0.3 * given_back
    assert shrunk > 60
