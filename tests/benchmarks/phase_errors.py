"""How often is a cell called what it isn't, where truth lies on the border of the definition?

    python -m tests.benchmarks.phase_errors              # the tables of docs/statistics.md
    python -m tests.benchmarks.phase_errors --maps 100   # fewer maps

For every preset's own n, T and C: cells that nothing was learned in, and cells whose accuracy rises
by exactly delta on seen and unseen tasks alike. Cells of a map share their evaluation sequences, so
they are wrong together: a sequence's ease, a normal deviate of its own, moves the accuracy of all
cells on it (`EASE`, on the scale of probits).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import special

from metaphase.core.label_counts import last_positions
from metaphase.core.phases import DELTA, GENERALIZING, IDENTIFYING, decide
from metaphase.sweeps.preset import list_presets, load_preset
from tests.benchmarks.statistics import markdown

EASE = 0.5  # standard deviation: correctness of two cells on a sequence correlates by about 0.1

CELLS = 64  # of a simulated map, at most


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.phase_errors")
    parser.add_argument("--maps", type=int, default=400, help="simulated (default: 400)")
    print(markdown(error_rates(parser.parse_args(argv).maps)))


def shapes() -> Iterator[tuple[str, int, int, int, int]]:
    """(presets, n, T, C, cells of a seed) of all presets, equal shapes together."""
    found: dict[tuple[int, int, int], tuple[list[str], int]] = {}
    for name in sorted(list_presets()):
        cells = load_preset(name).cells
        cell, seeds = cells[0], len({c.seed for c in cells})
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
