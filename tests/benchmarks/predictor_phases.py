"""How often is a cell called nearer to the wrong predictor, and how often do intervals hold?

    python -m tests.benchmarks.predictor_phases     # the tables of docs/statistics.md, a minute

Balls and urns with the exact predictors (`tests.tools.predictor_tree`). Of each truth a population
of sequences is drawn; evaluations are samples of n of them, so that the population's means are what
intervals have to hold. Models are mixtures of M and G whose nearness in the population is as asked
for, with and without a deviation of the logits (`off line`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from metaphase.core import predictor_phases
from metaphase.core.phases import DELTA, GENERALIZING, paired_interval
from metaphase.core.predictor_phases import decide, is_none
from tests.benchmarks.statistics import markdown
from tests.tools import predictor_tree as tree

POPULATION = 2000  # sequences
LENGTH = 24
NEARNESS = (-0.1, 0.0, DELTA, 0.1, 0.3)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.predictor_phases")
    parser.add_argument(
        "--evaluations", type=int, default=1000, help="of each truth (default: 1000)"
    )
    count = parser.parse_args(argv).evaluations
    print(f"### Nearer to M or to G\n\n{markdown(nearness_table(count))}\n", flush=True)
    print(f"### Nearer to G than to no context\n\n{markdown(departure_table(count))}\n")


def population(tasks: int, seed: int = 0) -> tuple[tree.Sequences, np.random.Generator]:
    """Sequences of new urns, with what M of so many known ones and the others say."""
    rng = np.random.default_rng([seed, tasks])
    known, new = (rng.dirichlet(np.ones(tree.SYMBOLS), k) for k in (tasks, POPULATION))
    return tree.draw(rng, new, np.arange(POPULATION), known, LENGTH), rng


def distances(
    found: tree.Sequences, rng: np.random.Generator, w: float, far: float, noise: float
) -> dict[str, np.ndarray]:
    """Of each sequence: the model's from each predictor, and M's from G."""
    q = tree.model(rng, found, w, far, noise)
    of = {name: tree.divergence(q, p).mean(axis=1) for name, p in found.p.items()}
    M, G = found.p["memorizing"], found.p["generalizing"]
    return of | {"between": tree.divergence(M, G).mean(axis=1)}


def nearness_of(d: dict[str, np.ndarray]) -> float:
    """Of the population."""
    return float((d["memorizing"] - d["generalizing"]).mean() / d["between"].mean())


def departure_of(d: dict[str, np.ndarray]) -> float:
    """From no context, of G, in the population."""
    zero, own = d["no_context"].mean(), d["generalizing"].mean()
    return float((zero - own) / (zero + own))


def evaluations(
    rng: np.random.Generator, d: dict[str, np.ndarray], n: int, count: int, knows: bool = True
) -> dict[str, np.ndarray]:
    """The columns that the rule reads, of `count` evaluations; seen tasks are of no doubt: it
    `knows` them, or nothing."""
    at_SxN = rng.integers(0, POPULATION, (count, n))
    values = {
        "distance_generalizing": d["generalizing"], "distance_no_context": d["no_context"],
        "distance_difference": d["memorizing"] - d["generalizing"],
        "distance_between": d["between"],
    }  # fmt: skip
    numbers: dict[str, np.ndarray] = {"n": np.full(count, n)}
    for name, value in values.items():
        value_SxN = value[at_SxN]
        numbers[f"unseen_{name}"] = value_SxN.mean(axis=1)
        numbers[f"unseen_{name}_se"] = value_SxN.std(axis=1, ddof=1) / np.sqrt(n)
    seen = {"distance_memorizing": 1.0 - 0.99 * knows, "distance_no_context": 0.01 + 0.99 * knows,
            "improvement": 0.5 * knows}  # fmt: skip
    for name, value in seen.items():
        numbers[f"seen_{name}"] = np.full(count, value)
        numbers[f"seen_{name}_se"] = np.full(count, 0.01 * value)
    return numbers


def nearness_table(
    count: int, n: int = 512, tasks: Sequence[int] = (4, 64, 256),
    truths: Sequence[float] = NEARNESS,
) -> pd.DataFrame:  # fmt: skip
    """A row a number of tasks, noise and true nearness: what cells are called, and coverage."""
    rows = []
    for N in tasks:
        found, rng = population(N)
        for noise in (0.0, 0.3, 1.0):
            grid = np.linspace(0.1, 0.9, 9)
            there = [nearness_of(distances(found, rng, w, 1.0, noise)) for w in grid]
            for truth in truths:
                w = float(np.interp(truth, there, grid))
                d = distances(found, rng, w, 1.0, noise)
                exact = nearness_of(d)
                numbers = evaluations(rng, d, n, count)
                rows.append(
                    _row(
                        numbers,
                        {"N": N, "off line": f"{noise:g}", "nearness": f"{exact:+.2f}"},
                        exact,
                    )
                )
    return pd.DataFrame(rows)


def _row(numbers: dict[str, np.ndarray], told: dict, exact: float) -> dict:
    found, row = decide(numbers), dict(told)
    row["M to G, nats"] = f"{numbers['unseen_distance_between'].mean():.4f}"
    none = is_none(found.phase)
    row[GENERALIZING] = float((found.phase == GENERALIZING).mean())
    row["a lesser phase"] = float((~none & (found.phase != GENERALIZING)).mean())
    row["decided, wrongly"] = float(
        (found.decided & ((found.phase == GENERALIZING) != (exact > 0))).mean()
    )
    row["decided"], row["none"] = float(found.decided.mean()), float(none.mean())
    mean, error = predictor_phases.effects(numbers)["unseen_nearness"]
    for confidence in (0.95, 0.99):
        low, high = paired_interval(mean, error, numbers["n"], confidence)
        row[f"nominal {confidence:.0%}"] = float(((low <= exact) & (exact <= high)).mean())
    return row


def departure_table(count: int, n: int = 512, tasks: int = 4) -> pd.DataFrame:
    """A row a true departure from no context, of cells on the way to G."""
    found, rng = population(tasks)
    grid = np.linspace(0.2, 0.9, 8)
    there = [departure_of(distances(found, rng, 1.0, far, 0.0)) for far in grid]
    rows = []
    for truth in (-0.2, 0.0, DELTA, 0.2):
        d = distances(found, rng, 1.0, float(np.interp(truth, there, grid)), 0.0)
        numbers = evaluations(rng, d, n, count, knows=False)
        called = decide(numbers)
        mean, error = predictor_phases.effects(numbers)["unseen_departure"]
        row: dict[str, object] = {"departure": f"{departure_of(d):+.2f}"}
        row[GENERALIZING] = float((called.phase == GENERALIZING).mean())
        row["decided"] = float(called.decided.mean())
        for confidence in (0.95, 0.99):
            low, high = paired_interval(mean, error, numbers["n"], confidence)
            row[f"nominal {confidence:.0%}"] = float(
                ((low <= departure_of(d)) & (departure_of(d) <= high)).mean()
            )
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
