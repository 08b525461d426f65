"""How often is a cell called what it isn't, where truth lies on the border of the definition?

    python -m tests.benchmarks.phase_errors              # the tables of docs/statistics.md
    python -m tests.benchmarks.phase_errors --maps 100   # fewer maps, and cells that count labels

For every preset's own n, T and C: cells that nothing was learned in, and cells whose accuracy rises
by exactly delta on seen and unseen tasks alike. Cells of a map share their evaluation sequences, so
they are wrong together: a sequence's ease, a normal deviate of its own, moves the accuracy of all
cells on it (`EASE`, on the scale of probits). And where classes are unequal: cells that name the
commonest label so far and never look at an input.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import special

from metaphase.core import label_counts
from metaphase.core.datasets import DATASETS
from metaphase.core.label_counts import last_positions
from metaphase.core.phases import (
    DELTA,
    GENERALIZING,
    IDENTIFYING,
    MEMORIZING,
    decide,
    paired_interval,
)
from metaphase.sweeps.preset import list_presets, load_preset
from tests.benchmarks.statistics import markdown
from tests.tools import synthetic

EASE = 0.5  # standard deviation: correctness of two cells on a sequence correlates by about 0.1

CELLS = 64  # of a simulated map, at most


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.phase_errors")
    parser.add_argument("--maps", type=int, default=400, help="simulated (default: 400)")
    maps = parser.parse_args(argv).maps
    print(f"### Counting labels\n\n{markdown(label_counting(maps))}\n", flush=True)
    print(f"### By preset\n\n{markdown(error_rates(maps))}")


def label_counting(
    cells: int,
    n: int = 512,
    classes: Sequence[int] = (10, 5, 3, 2),
    lengths: Sequence[int] = (16, 50, 100),
) -> pd.DataFrame:
    """A row for each number of SVHN's classes and length: how often cells are called something
    that name the commonest label so far, on seen and on unseen tasks; and how often they would be
    generalizing if last were compared with their own first."""
    rng, rows = np.random.default_rng(9), []
    for C in classes:
        counts = DATASETS["SVHN"].heldout_counts[:C]
        for T in lengths:
            level = label_counts.level(counts, T)
            numbers: dict[str, np.ndarray] = {"n": np.full(cells, n)}
            numbers["chance"] = np.full(cells, max(counts) / sum(counts))
            for split in ("seen", "unseen"):
                parts = [count_labels(rng, counts, T, n) for _ in range(cells)]
                numbers |= {f"{split}_{k}": np.array([part[k] for part in parts]) for k in parts[0]}
            called = decide(numbers, level).phase
            gain, error = numbers["unseen_improvement"], numbers["unseen_improvement_se"]
            by_first = (gain > DELTA) & (paired_interval(gain, error, n)[0] > 0)
            rows.append(
                {"C": C, "T": T, "level - 1/C": f"{level - 1 / C:.3f}",
                 GENERALIZING: float((called == GENERALIZING).mean()),
                 IDENTIFYING: float((called == IDENTIFYING).mean()),
                 MEMORIZING: float((called == MEMORIZING).mean()),
                 "by last - first": float(by_first.mean())}
            )  # fmt: skip
    return pd.DataFrame(rows)


def count_labels(
    rng: np.random.Generator, counts: Sequence[int], T: int, n: int
) -> dict[str, float]:
    """Statistics of a cell that names the commonest label so far (of those that tie, any), on n
    sequences of a task each."""
    C = len(counts)
    p_C = np.array(counts) / sum(counts)
    class_NxT = np.searchsorted(p_C.cumsum()[:-1], rng.random((n, T)), side="right")
    y_NxT = np.take_along_axis(rng.permuted(np.tile(np.arange(C), (n, 1)), axis=1), class_NxT, 1)
    seen_NxTxC = (y_NxT[:, :, None] == np.arange(C)).cumsum(axis=1)
    before_NxTxC = np.concatenate([np.zeros((n, 1, C)), seen_NxTxC[:, :-1]], axis=1)
    guess_NxT = (before_NxTxC + rng.random((n, T, C)) / 2).argmax(axis=2)
    return synthetic.statistics(guess_NxT == y_NxT)


def shapes() -> Iterator[tuple[str, int, int, int, int]]:
    """(presets, n, T, C, cells of a seed) of all presets on images, whose phases accuracies decide;
    equal shapes together."""
    found: dict[tuple[int, int, int], tuple[list[str], int]] = {}
    for name in sorted(list_presets()):
        cells = load_preset(name).cells
        cell, seeds = cells[0], len({c.seed for c in cells})
        if cell.task_family != "projected_images":
            continue
        key = (cell.eval_sequences, cell.sequence_length, cell.num_classes)
        names, most = found.get(key, ([], 0))
        found[key] = ([*names, name], max(most, len(cells) // seeds))
    for key, (names, most) in found.items():
        yield (", ".join(names), *key, most)


def error_rates(maps: int) -> pd.DataFrame:
    """A row a shape of presets: shares of cells and of maps (a seed) that are called wrongly."""
    rng, rows = np.random.default_rng(7), []
    for names, n, T, C, cells in shapes():
        row: dict[str, object] = {"presets": names, "n": n, "T": T, "C": C}
        for truth, rise in (("nothing learned", 0.0), ("+0.05 on both splits", DELTA)):
            called = np.array(
                [phases_of_map(rng, n, T, C, rise, min(cells, CELLS)) for _ in range(maps)]
            )
            for phase in (GENERALIZING, IDENTIFYING):
                if phase == IDENTIFYING or not rise:  # at +0.05 half are generalizing, rightly
                    wrong = called == phase
                    row[f"{truth}, {phase}"] = float(wrong.mean())
                    row[f"{truth}, {phase}, any of a map"] = float(wrong.any(axis=1).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def phases_of_map(
    rng: np.random.Generator, n: int, T: int, C: int, rise: float, cells: int
) -> np.ndarray:
    """Phases of `cells` cells on the same n sequences a split; seen and unseen ones share images,
    and with them their ease."""
    w, ease_N = last_positions(T), EASE * rng.standard_normal(n)
    scale = np.sqrt(1 + EASE**2)
    level = 1 / C
    chances = {p: special.ndtr(special.ndtri(p) * scale + ease_N) for p in (level, level + rise)}
    numbers: dict[str, np.ndarray] = {"n": np.full(cells, n), "chance": np.full(cells, level)}
    for split in ("seen", "unseen"):
        first_SxN = rng.random((cells, n)) < chances[level]
        last_SxN = rng.binomial(w, chances[level + rise], (cells, n)) / w
        for name, value_SxN in (
            ("first", first_SxN), ("last", last_SxN), ("improvement", last_SxN - first_SxN),
        ):  # fmt: skip
            numbers[f"{split}_{name}"] = value_SxN.mean(axis=1)
            numbers[f"{split}_{name}_se"] = value_SxN.std(axis=1, ddof=1) / np.sqrt(n)
    return decide(numbers, level).phase


if __name__ == "__main__":
    main()
