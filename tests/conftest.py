"""Shared by all tests: where the meta-trainer runs, and small cells that train in seconds."""

from __future__ import annotations

import os

import pytest
import torch

from core.config import Cell

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: core.kernels

torch.set_num_threads(1)  # as a worker has; what is tested is too small for more

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: the CPU, and a GPU where there is one."""
    return torch.device(request.param)


def small_cell(**settings) -> Cell:
    """A cell of the quickstart's kind, made small; any setting can be changed."""
    defaults = {
        "image_size": 4,
        "num_classes": 5,
        "sequence_length": 8,
        "model_size": 8,
        "key_size": 4,
        "batch_size": 8,
        "steps": 20,
        "warmup_steps": 5,
        "eval_every": 10,
        "eval_sequences": 24,
        "learning_rate": 3e-3,
    }
    return Cell(**{**defaults, **settings})
