"""Does a lower precision move the phase boundaries? The same cells at two precisions, side by side.

    python -m tests.benchmarks.precision                       # the quickstart, bf16 against fp32
    python -m tests.benchmarks.precision --precision tf32 --widths 32

Each cell is trained at both and classified as `analysis` does. Cells whose phases differ are
listed; as a yardstick, grid points where seeds disagree at fp32 are counted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from metaphase.analysis.statistics.phases import classify
from metaphase.core.cell import Cell, grouped, stack_key
from metaphase.core.training.trainer import PackTrainer
from tests.benchmarks.throughput import QUICKSTART


def quickstart() -> list[Cell]:
    """The preset's cells, for machines that lack what sweeps.preset needs."""
    training = {"warmup_steps": 100, "steps": 1000, "eval_every": 500, "eval_sequences": 1024}
    grid = itertools.product((4, 8, 16, 32), (1, 4, 16, 64, 128, 256, 1024, 4096), (0, 1))
    return [
        Cell(**(QUICKSTART | training | {"model_size": size, "num_tasks": tasks, "seed": seed}))
        for size, tasks, seed in grid
    ]


def train(cells: Sequence[Cell], device: str, data_root: str) -> pd.DataFrame:
    """Rows of the cells table, classified."""
    rows = []
    for pack in grouped(cells, stack_key).values():
        trainer = PackTrainer(pack, device=device, data_root=data_root)
        while not trainer.finished:
            trainer.advance()
        rows += [row for row, _ in trainer.results()]
    return classify(pd.DataFrame(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", help="default: the quickstart")
    parser.add_argument("--precision", choices=("bf16", "tf32"), default="bf16")
    parser.add_argument("--widths", type=int, nargs="*", help="default: all of the preset's")
    parser.add_argument("--data-root", default="data")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cells: Sequence[Cell] = quickstart()
    if arguments.preset:
        from metaphase.sweeps.preset import load_preset

        cells = load_preset(arguments.preset).cells
    cells = [c for c in cells if not arguments.widths or c.model_size in arguments.widths]
    point = ["model_size", "num_tasks", "seed"]
    full = train([replace(c, precision="fp32") for c in cells], device, arguments.data_root)
    low = train(
        [replace(c, precision=arguments.precision) for c in cells], device, arguments.data_root
    )
    both = full.merge(low, on=point, suffixes=("_fp32", "_low"))
    moved = both[both.phase_fp32.astype(str) != both.phase_low.astype(str)]
    columns = [
        *point, "phase_fp32", "phase_low", "unseen_improvement_fp32", "unseen_improvement_low",
        "seen_improvement_fp32", "seen_improvement_low",
    ]  # fmt: skip
    print(moved[columns].round(3).to_string(index=False) if len(moved) else "no phase differs")
    seeds = full.pivot_table(
        index=point[:2], columns="seed", values="phase", aggfunc="first", observed=False
    )
    disagree = int(seeds.astype(str).nunique(axis=1).gt(1).sum())
    difference = (both.unseen_last_low - both.unseen_last_fp32).abs()
    print(
        f"{len(moved)} of {len(both)} cells change phase from fp32 to {arguments.precision} on "
        f"{device}; seeds disagree at {disagree} of {len(seeds)} grid points at fp32\n"
        f"accuracy on unseen tasks, last: differs by {difference.mean():.3f} on average"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
