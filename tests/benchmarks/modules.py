"""A Transformer as an ordinary `torch.nn.Module` in packs, beside the program's own.

    python -m tests.benchmarks.modules

Times are of a step, a cell of the pack, with the same sequences, embedding, head and optimizer:

- alone: the module in a pack of one, which is plain eager code;
- packed: the module stacked by torch.func.vmap;
- compiled: the same, the stacked module compiled by torch.compile;
- own: the program's Transformer of the same shape, its kernels.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from metaphase.core import plugins
from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import Cell
from metaphase.core.training.trainer import PackTrainer


class Transformer(nn.Module):
    """Pre-norm blocks of causal attention with learned positions, and MLPs."""

    def __init__(self, width: int, tokens: int, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width, False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width, False) for _ in range(depth))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.positions[: h.shape[1]]
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            x = F.layer_norm(h, h.shape[-1:])
            parts = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
            h = h + out(mixed.transpose(1, 2).flatten(-2))
            h = h + down(F.relu(up(F.layer_norm(h, h.shape[-1:]))))
        return h


def milliseconds(cells: Sequence[Cell], seconds: float) -> float:
    """Of a step of a cell, after a warm-up."""
    trainer = PackTrainer(cells)
    trainer.train(5)
    best, ended = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ended:
        started = time.perf_counter()
        trainer.train(5)
        best = min(best, (time.perf_counter() - started) / 5)
    return 1e3 * best / len(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--pack", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="to time each number")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    name = plugins.load("architecture", f"{__file__}:Transformer")
    print(
        f"{'width':>6} {'alone':>8} {'packed':>8} {'compiled':>9} {'own':>8}   ms a step and cell"
    )
    for width in arguments.widths:
        shared = {"model_size": width, "num_classes": 5, "image_size": 4, "num_tasks": 2**20}

        def pack(count: int, architecture: str, shared: dict = shared) -> list[Cell]:
            own = {} if architecture == name else {"position_encoding": "learned"}
            return [
                Cell.from_dict({**shared, **own, "architecture": architecture, "seed": seed})
                for seed in range(count)
            ]

        row = [milliseconds(pack(1, name), arguments.seconds)]
        row.append(milliseconds(pack(arguments.pack, name), arguments.seconds))
        layers = ARCHITECTURES[name].layers
        stacked = layers._stacked  # type: ignore[attr-defined]
        layers._stacked = functools.cache(lambda key, of=stacked: torch.compile(of(key)))  # type: ignore[attr-defined]
        row.append(milliseconds(pack(arguments.pack, name), arguments.seconds))
        layers._stacked = stacked  # type: ignore[attr-defined]
        row.append(milliseconds(pack(arguments.pack, "transformer"), arguments.seconds))
        print(f"{width:>6} {row[0]:8.2f} {row[1]:8.2f} {row[2]:9.2f} {row[3]:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
