"""How often are transitions right? The tables of docs/statistics.md about them.

    python -m tests.benchmarks.transitions              # minutes
    python -m tests.benchmarks.transitions --share 0.1  # a tenth of the simulations

Truths are simulated: seeds reach a phase with a share that rises, that stays the same, or that
comes and goes along log2 of the number of tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from metaphase.analysis.statistics import bimodality
from metaphase.core.thresholds import INSIDE, Fit, fit

CONFIDENCE = 0.95
ROWS = 100  # simulations that are fitted together
# numbers of tasks 2^0 ... 2^25 as in the paper, its every second, and small grids
GRIDS = {
    26: np.arange(26.0),
    13: np.arange(0.0, 26.0, 2),
    8: np.array([0.0, 2, 4, 6, 7, 8, 10, 12]),
    5: np.arange(0.0, 13.0, 3),
}
FACTORS = (1.0, 3.0)  # Bayes factors that could be asked for alone
DESIGNS = ((26, 3), (26, 10), (26, 1), (13, 2), (13, 1), (8, 2), (5, 2), (5, 10))  # values, seeds


def main(argv: Sequence[str] | None = None) -> None:
    """Prints all tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.transitions")
    parser.add_argument("--share", type=float, default=1.0, help="of the simulations (default: 1)")
    parser.add_argument("--only", default="", help="tables whose title has this in it")
    arguments = parser.parse_args(argv)
    share = arguments.share

    def times(count: int) -> int:
        return max(20, int(count * share))

    from tests.benchmarks.statistics import markdown

    for title, make, count in (
        ("Interval of a transition", coverage, 1000),
        ("Interval where few seeds ever get there", coverage_by_share, 1000),
        ("Transitions where there are none", false_transitions, 1000),
        ("Transitions that are there", true_transitions, 1000),
        ("Phases that come and go", bands, 500),
        ("Two modes", modes, 200),
    ):
        if arguments.only in title:
            print(f"### {title}\n\n{markdown(make(times(count)))}\n", flush=True)


def rise(x_K: np.ndarray, theta_R: np.ndarray, s: float, share: float) -> np.ndarray:
    """share / (1 + exp(-(x - theta) / s)), shape (R, K)."""
    return share / (1 + np.exp(-(x_K - theta_R[:, None]) / s))


def fits(rng: np.random.Generator, x_K: np.ndarray, p_RxK: np.ndarray, seeds: int) -> Iterator[Fit]:
    """Fits of simulated seeds that reach a phase with these probabilities."""
    yes_RxK = rng.binomial(seeds, p_RxK)
    for i in range(0, len(yes_RxK), ROWS):
        yield from fit(x_K, yes_RxK[i : i + ROWS], seeds - yes_RxK[i : i + ROWS], CONFIDENCE)


def of_truth(
    rng: np.random.Generator, times: int, values: int, seeds: int, s: float, share: float
) -> dict[str, object]:
    """Coverage where theta is uniform over the middle third of the grid.

    Where an end of the interval is open it holds everything on that side, so the median width is
    told too: coverage alone could be had by saying nothing."""
    x_K = GRIDS[values]
    span = x_K[-1] - x_K[0]
    theta_R = rng.uniform(x_K[0] + span / 3, x_K[-1] - span / 3, times)
    found = [one.begin for one in fits(rng, x_K, rise(x_K, theta_R, s, share), seeds)]
    held = [f.low <= theta <= f.high for f, theta in zip(found, theta_R, strict=True)]
    error = [abs(f.estimate - theta) for f, theta in zip(found, theta_R, strict=True)]
    width = np.median([f.high - f.low for f in found])
    return {
        "nominal 95%": float(np.mean(held)),
        "told a transition": float(np.mean([f.censored == INSIDE and f.clear for f in found])),
        "median width, octaves": f"{width:.1f}" if np.isfinite(width) else "open",
        "median error, octaves": f"{np.nanmedian(error):.2f}",
    }


def coverage(times: int) -> pd.DataFrame:
    """By grid, seeds and sharpness, all seeds getting there in the end."""
    rng, rows = np.random.default_rng(2), []
    cases = [(26, 3, s) for s in (0.1, 0.5, 1.0, 2.0)] + [(v, n, 0.5) for v, n in DESIGNS[1:]]
    for values, seeds, s in cases:
        row = {"numbers of tasks": values, "seeds": seeds, "true s": str(s)}
        rows.append(row | of_truth(rng, times, values, seeds, s, 1.0))
    return pd.DataFrame(rows)


def coverage_by_share(times: int) -> pd.DataFrame:
    """Where only some seeds ever reach the phase."""
    rng, rows = np.random.default_rng(3), []
    for values, seeds in ((26, 3), (13, 5)):
        for share in (0.9, 0.75, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3):
            row = {"numbers of tasks": values, "seeds": seeds, "get there": f"{share:.0%}"}
            rows.append(row | of_truth(rng, times, values, seeds, 0.5, share))
    return pd.DataFrame(rows)


def false_transitions(times: int) -> pd.DataFrame:
    """Rows of constant shares of seeds in the phase that say where it begins, and, after a plus,
    that say it comes and goes; and how many would say either if a Bayes factor of 1 or 3 alone were
    asked for, at the worst of the shares."""
    rng, rows = np.random.default_rng(4), []
    for values, seeds in DESIGNS:
        row: dict[str, object] = {"numbers of tasks": values, "seeds": seeds}
        alone = dict.fromkeys(FACTORS, 0.0)
        for share in (0.05, 0.1, 0.2, 0.3, 0.5):
            yes_RxK = rng.binomial(seeds, np.full((times, values), share))
            rises, band, by_factor = told(GRIDS[values], yes_RxK, seeds)
            row[f"share {share:g}"] = f"{rises:.1%} + {band:.1%}"
            alone = {least: max(alone[least], by_factor[least]) for least in FACTORS}
        rows.append(row | {f"factor {least:g}, worst": alone[least] for least in FACTORS})
    return pd.DataFrame(rows)


def true_transitions(times: int) -> pd.DataFrame:
    """Rows with a transition that say where it begins: by the rule, and, after a slash, if Bayes
    factors of 1 and of 3 alone were asked for."""
    rng, rows = np.random.default_rng(10), []
    third = (1 / 3, 2 / 3)
    for values, seeds in DESIGNS:
        row: dict[str, object] = {"numbers of tasks": values, "seeds": seeds}
        x_K = GRIDS[values]
        for name, s, share, between in (
            ("s = 0.5", 0.5, 1.0, third), ("s = 2", 2.0, 1.0, third), ("60%", 0.5, 0.6, third),
            ("40%", 0.5, 0.4, third), ("in the last fifth", 0.5, 1.0, (0.8, 0.95)),
        ):  # fmt: skip
            low, high = x_K[0] + np.array(between) * (x_K[-1] - x_K[0])
            p_RxK = rise(x_K, rng.uniform(low, high, times), s, share)
            rises, band, by_factor = told(x_K, rng.binomial(seeds, p_RxK), seeds)
            row[name] = " / ".join(f"{100 * v:.0f}" for v in (rises + band, *by_factor.values()))
        rows.append(row)
    return pd.DataFrame(rows)


def told(
    x_K: np.ndarray, yes_RxK: np.ndarray, seeds: int
) -> tuple[float, float, dict[float, float]]:
    """The shares of rows that place the begin of a phase that stays inside the grid, and of one
    that goes; and what both would be if a Bayes factor of a rise alone were asked for, by
    factor."""
    found: list[Fit] = []
    for i in range(0, len(yes_RxK), ROWS):
        found += fit(x_K, yes_RxK[i : i + ROWS], seeds - yes_RxK[i : i + ROWS], CONFIDENCE)
    some = (yes_RxK.sum(axis=1) > 0) & (yes_RxK.sum(axis=1) < seeds * len(x_K))
    factor = np.array([one.begin.bayes_factor for one in found])
    band = np.array([one.end is not None for one in found])
    inside = np.array([one.begin.censored == INSIDE and one.begin.clear for one in found])
    return (
        float((inside & ~band).mean()),
        float(band.mean()),
        {least: float((some & ((factor >= least) | band)).mean()) for least in FACTORS},
    )


def bands(times: int) -> pd.DataFrame:
    """Phases that hold over a third of the grid, and phases that rise and stay."""
    rng, rows = np.random.default_rng(5), []
    for values, seeds in ((26, 3), (13, 2), (8, 2)):
        x_K = GRIDS[values]
        third = (x_K[-1] - x_K[0]) / 3
        for share in (1.0, 0.6):
            begin_R = rng.uniform(x_K[0] + third / 3, x_K[-1] - 1.4 * third, times)
            end_R = begin_R + third
            stays = rise(x_K, begin_R, 0.5, share)
            found = list(fits(rng, x_K, stays * (1 - rise(x_K, end_R, 0.5, 1.0)), seeds))
            both = [f.end is not None and f.begin.censored == INSIDE for f in found]
            begins = [f.begin.low <= t <= f.begin.high for f, t in zip(found, begin_R, strict=True)]
            ends = [
                f.end.low <= t <= f.end.high for f, t in zip(found, end_R, strict=True) if f.end
            ]
            false = [f.end is not None for f in fits(rng, x_K, stays, seeds)]
            unclear = [not f.begin.clear for f in found]
            rows.append(
                {"numbers of tasks": values, "seeds": seeds, "seeds that get there": f"{share:.0%}",
                 "both ends told": float(np.mean(both)), "unclear": float(np.mean(unclear)),
                 "begin held (95%)": float(np.mean(begins)), "end held (95%)": float(np.mean(ends)),
                 "end told where none is": float(np.mean(false))}
            )  # fmt: skip
    return pd.DataFrame(rows)


def modes(times: int) -> pd.DataFrame:
    """How often the pooled dip test tells two modes at a level of 5%, by what is true.

    Seeds of a grid point are uniform; or in one of two modes (deviation
    `bimodality.MODE_WIDTH`); or in one mode, low at half of the grid points and high at the other.
    """
    rng, rows = np.random.default_rng(6), []
    for points, seeds in ((4, 2), (8, 2), (4, 5), (8, 5)):
        row: dict[str, object] = {"grid points": points, "seeds": seeds}
        shape = (times, points, seeds)
        side = np.where(np.arange(points) % 2, 0.8, 0.2)[:, None]
        width = bimodality.MODE_WIDTH
        for truth, value in (
            ("uniform", rng.random(shape)),
            ("two modes", rng.integers(0, 2, shape) + rng.normal(0, width, shape)),
            ("one mode a point", side + rng.normal(0, width, shape)),
        ):
            at, least = np.repeat(np.arange(points), seeds), np.full(points * seeds, 0.15)
            found = [bimodality.pooled_test(one.ravel(), at, least) for one in value]
            row[truth] = float(np.mean([f is not None and f.p <= 0.05 for f in found]))
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
