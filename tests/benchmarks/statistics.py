"""Do intervals cover at their nominal rates, and how often is a cell's phase called wrongly?

    python -m tests.benchmarks.statistics              # the tables of docs/statistics.md, minutes
    python -m tests.benchmarks.statistics --share 0.1  # a tenth of the simulations

Truths are known because they are simulated: sequences of right and wrong predictions, seeds that
reach a phase or don't, models whose accuracy follows their size. Wilson's coverage is summed
exactly over all outcomes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from metaphase.analysis.statistics import correlations, phases
from metaphase.core import schema
from metaphase.core.phases import (
    GENERALIZING,
    IDENTIFYING,
    MEMORIZING,
    PHASES,
    UNTRAINED,
    paired_interval,
    wilson_interval,
)

WIDTH = 10  # positions that `last` averages: the last tenth of 100


def main(argv: Sequence[str] | None = None) -> None:
    """Prints all tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.statistics")
    parser.add_argument("--share", type=float, default=1.0, help="of the simulations (default: 1)")
    share = parser.parse_args(argv).share

    def times(count: int) -> int:
        return max(20, int(count * share))

    for title, table in (
        ("Wilson's score interval of a proportion", wilson_coverage()),
        ("Bonett and Price's interval of an improvement", improvement_coverage(times(10_000))),
        ("Interval of Spearman's rank correlation", spearman_coverage(times(10_000))),
        ("Paired t interval of a difference of plateaus", plateau_coverage(times(10_000))),
        *(
            (f"Phase called, by true phase and size of the effect, {n} sequences", table)
            for n in (128, 512, 2048)
            for table in [confusion(max(20, times(4000) * 512 // max(n, 512)), n)]
        ),
        ("Chance of being called generalizing, by true improvement", power(times(4000))),
    ):
        print(f"### {title}\n\n{markdown(table)}\n")


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown; shares as percentages with one decimal."""

    def text(value: object) -> str:
        return f"{value:.1%}" if isinstance(value, float) else str(value)

    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy(object).tolist()]
    return "\n".join("| " + " | ".join(map(text, row)) + " |" for row in rows)


def wilson_coverage(
    proportions: Iterable[float] = (0.1, 0.1135, 0.2, 0.5, 0.95),
    sizes: Iterable[int] = (128, 512, 1024),
) -> pd.DataFrame:
    """Exact: the probability of all outcomes whose interval holds the true proportion."""
    rows = []
    for n in sizes:
        k = np.arange(n + 1)
        for p in proportions:
            row: dict[str, object] = {"sequences": n, "true proportion": str(p)}
            for confidence in (0.95, 0.99):
                low, high = wilson_interval(k / n, np.full(n + 1, n), confidence)
                inside = (low <= p) & (p <= high)
                row[f"nominal {confidence:.0%}"] = float(stats.binom.pmf(k, n, p)[inside].sum())
            rows.append(row)
    return pd.DataFrame(rows)


def evaluations(
    rng: np.random.Generator, times: int, n: int, first: float, last: float
) -> dict[str, np.ndarray]:
    """Statistics of a split as an evaluation has them, of `times` cells over n sequences."""
    first_SxN = rng.random((times, n)) < first
    last_SxN = rng.binomial(WIDTH, last, (times, n)) / WIDTH
    found = {
        schema.FIRST: first_SxN.astype(float),
        schema.LAST: last_SxN,
        schema.IMPROVEMENT: last_SxN - first_SxN,
    }
    out = {}
    for name, value_SxN in found.items():
        out[name] = value_SxN.mean(axis=1)
        out[f"{name}_se"] = value_SxN.std(axis=1, ddof=1) / np.sqrt(n)
    return out


def improvement_coverage(times: int, sizes: Iterable[int] = (32, 128, 512)) -> pd.DataFrame:
    """Of `times` simulated evaluations, those whose interval holds the true improvement."""
    rng, rows = np.random.default_rng(1), []
    for n in sizes:
        for first, last in ((0.1, 0.1), (0.1, 0.15), (0.1, 0.8), (0.95, 0.95)):
            found = evaluations(rng, times, n, first, last)
            row: dict[str, object] = {"sequences": n, "first to last": f"{first:g} to {last:g}"}
            for confidence in (0.95, 0.99):
                low, high = paired_interval(
                    found["improvement"], found["improvement_se"], np.full(times, n), confidence
                )
                truth = last - first
                row[f"nominal {confidence:.0%}"] = float(((low <= truth) & (truth <= high)).mean())
            rows.append(row)
    return pd.DataFrame(rows)


def spearman_coverage(times: int, sizes: Iterable[int] = (8, 12, 15, 30)) -> pd.DataFrame:
    """Of bivariate normal samples, whose rank correlation is 6 / pi asin(rho / 2)."""
    rng, rows = np.random.default_rng(3), []
    for n in sizes:
        row: dict[str, object] = {"models": n}
        for rho in (0.0, 0.5, 0.8, 0.95):
            truth = 6 / np.pi * np.arcsin(rho / 2)
            x_SxN, noise_SxN = rng.standard_normal((2, times, n))
            y_SxN = rho * x_SxN + np.sqrt(1 - rho**2) * noise_SxN
            held = 0
            for x, y in zip(x_SxN, y_SxN, strict=True):
                _, low, high = correlations.rank_correlation(x, y, 0.95)
                held += low <= truth <= high
            row[f"true correlation {truth:.2f}"] = held / times
        rows.append(row)
    return pd.DataFrame(rows)


def plateau_coverage(times: int, sizes: Iterable[int] = (3, 4, 5)) -> pd.DataFrame:
    """Plateaus are lognormal, half of the log's variance a seed's own: shared by its pair."""
    rng, rows = np.random.default_rng(4), []
    for seeds in sizes:
        row: dict[str, object] = {"seeds": seeds}
        for spread in (0.1, 0.3, 0.6):
            shared, own, base = rng.standard_normal((3, times, seeds)) * spread / np.sqrt(2)
            d = 500 * np.exp(shared + own) - 1000 * np.exp(shared + base)
            truth = -500 * np.exp(spread**2 / 2)
            error = d.std(axis=1, ddof=1) / np.sqrt(seeds)
            half = stats.t.ppf(0.975, seeds - 1) * error
            row[f"spread of log steps {spread:g}"] = float(
                (np.abs(d.mean(axis=1) - truth) <= half).mean()
            )
        rows.append(row)
    return pd.DataFrame(rows)


def simulated_cells(
    rng: np.random.Generator, times: int, n: int, phase: str, effect: float, chance: float = 0.1
) -> pd.DataFrame:
    """Cells of a true phase whose decisive statistic differs from chance by `effect`."""
    knows = chance + effect * (phase == MEMORIZING)
    learns = {
        schema.SEEN: phase in (IDENTIFYING, GENERALIZING),
        schema.UNSEEN: phase == GENERALIZING,
    }
    columns: dict[str, object] = {"status": schema.DONE, "chance": chance, "n": n}
    for split, rises in learns.items():
        first = knows if split == schema.SEEN else chance
        found = evaluations(rng, times, n, first, first + effect * rises)
        columns |= {f"{split}_{name}": value for name, value in found.items()}
    return pd.DataFrame(columns, index=range(times))


def confusion(times: int, n: int) -> pd.DataFrame:
    """How cells of known phases are called, with the defaults of `analysis.statistics.phases`."""
    rng, rows = np.random.default_rng(5), []
    for phase in PHASES:
        for effect in (0.0,) if phase == UNTRAINED else (0.07, 0.1, 0.2):
            called = phases.classify(simulated_cells(rng, times, n, phase, effect))["phase"]
            shares = called.value_counts(normalize=True)
            rows.append(
                {"true phase": phase, "effect": f"{effect:g}"}
                | {name: float(shares[name]) for name in PHASES}
            )
    return pd.DataFrame(rows)


def power(times: int) -> pd.DataFrame:
    """How often a cell is called generalizing: what is above delta 0.05 ought to be."""
    rng, rows = np.random.default_rng(6), []
    for n in (128, 512, 1024, 4096):
        row: dict[str, object] = {"sequences": n}
        for effect in (0.0, 0.02, 0.04, 0.05, 0.06, 0.08, 0.1, 0.2):
            cells = simulated_cells(rng, max(20, times * 512 // max(n, 512)), n,
                                    GENERALIZING, effect)  # fmt: skip
            called = phases.classify(cells)["phase"] == GENERALIZING
            row[f"+{effect:g}"] = float(called.mean())
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
