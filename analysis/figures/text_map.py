"""The phase map in letters, with counts and transition estimates, as commands print it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from metaphase.analysis import labels, transition_text
from metaphase.analysis.statistics import phases
from metaphase.core import phase_rules, schema
from metaphase.core.phases import ON_PLATEAU, PHASES
from metaphase.core.predictor_phases import REASONS

LIKELY = 0.8  # a phase this probable has its letter, small, where nothing was trained
UNFINISHED, MISSING, SPLIT, UNDECIDED, PLATEAU, NO_PHASE = "x", ".", "*", "?", "-", "="


def describe(
    cells: pd.DataFrame,
    found: pd.DataFrame,
    condition: Mapping[str, object] | None = None,
    expected: pd.DataFrame | None = None,
) -> str:
    """One condition's counts, its map, the map's legend and where phases begin.

    Args:
        cells: of the condition, as from `analysis.statistics.phases.classify`.
        found: from `analysis.statistics.transitions.estimate_transitions`.
        condition: see `analysis.statistics.phases.split_conditions`.
        expected: of a search, from `analysis.statistics.untrained.expected`.
    """
    done = cells[cells["status"] == schema.DONE]
    by_phase = done["phase"].value_counts()
    counts = [f"{by_phase.get(phase, 0)} {phase}" for phase in reversed(PHASES)]
    if cells["on_plateau"].any():
        counts.append(f"{cells['on_plateau'].sum()} of these {ON_PLATEAU}")
    undecided = ~done["decided"].astype(bool) & done["phase"].notna()
    if undecided.any():
        counts.append(f"{undecided.sum()} undecided")
    rest = done["phase"].isna() & ~done[list(REASONS)].any(axis=1)
    why = {said: done[name] for name, said in REASONS.items()} | {phase_rules.NO_PHASE: rest}
    for reason, there in why.items():
        if there.any():
            counts.append(f"{there.sum()} without a phase ({reason})")
    if len(done) < len(cells):
        counts.append(f"{len(cells) - len(done)} diverged or failed")
    seeds = cells["seed"].nunique()
    head = (
        f"{labels.title(cells, condition or {})}: {len(cells)} cells, "
        f"{seeds} seed{'s' * (seeds != 1)}: {', '.join(counts)}"
    )
    map_lines = text_map(phases.summarize_grid(cells), expected)
    return "\n".join([head, "", *map_lines, "", *transition_text.lines(found)])


def text_map(points: pd.DataFrame, expected: pd.DataFrame | None = None) -> list[str]:
    """Lines of the map from `phases.summarize_grid`: the largest model size on top; and what is
    `expected` of points that a search didn't train (`analysis.statistics.untrained.expected`)."""
    found = marks(points)
    if expected is not None:
        found |= expected_marks(expected)
        points = pd.concat([points[phases.POINT], expected[phases.POINT]])
    return lines(found, points["model_size"], points["num_tasks"])


def marks(points: pd.DataFrame) -> dict[tuple[int, int], str]:
    """{(model size, number of tasks): a letter and perhaps a mark} of `phases.summarize_grid`."""
    found = {}
    for row in points.to_dict("records"):
        finished, mark = row["finished"], UNFINISHED
        if finished and row["on_plateau"] >= finished:
            mark = PLATEAU
        elif finished and row["no_phase"] >= finished:
            mark = NO_PHASE
        elif finished:
            split = row["agreement"] < 1 or row["no_phase"] > 0
            undecided = row["decided_share"] < 0.5
            beside = SPLIT if split else UNFINISHED if row["unfinished"] else UNDECIDED * undecided
            mark = labels.LETTERS[row["phase"]] + beside
        found[row["model_size"], row["num_tasks"]] = mark
    return found


def expected_marks(expected: pd.DataFrame) -> dict[tuple[int, int], str]:
    """{(model size, number of tasks): a small letter} of what is probable enough, from
    `analysis.statistics.untrained.expected`."""
    return {
        (row["model_size"], row["num_tasks"]): labels.LETTERS[row["phase"]].lower()
        for row in expected[expected["share"] >= LIKELY].to_dict("records")
    }


def lines(
    marks: Mapping[tuple[int, int], str], model_sizes: Iterable[int], num_tasks: Iterable[int]
) -> list[str]:
    """Lines of a map over these axes: the largest model size on top, the legend below."""
    sizes, tasks = sorted(set(model_sizes), reverse=True), sorted(set(num_tasks))
    exponents = [labels.exponent_of_two(n) for n in tasks]
    powers = None not in exponents
    heads = [str(head) for head in (exponents if powers else map(int, tasks))]
    width = max(2, *map(len, heads)) + 1
    margin = max(len(labels.power_of_two(size)) for size in sizes)

    def line(start: str, texts: list[str]) -> str:
        return start + "".join(f"{text:<2}".rjust(width) for text in texts).rstrip()

    rows = {size: [marks.get((size, n), MISSING) for n in tasks] for size in sizes}
    return [
        "model size",
        *(line(f"{labels.power_of_two(size):>{margin}} |", row) for size, row in rows.items()),
        " " * margin + " +" + "-" * (width * len(tasks)),
        line(" " * margin + "  ", heads),
        " " * margin + "  " + f" number of tasks{', 2^' * powers}",
        _legend("".join(mark for row in rows.values() for mark in row)),
    ]


def _legend(drawn: str) -> str:
    """What the letters mean, and of the other marks those that are drawn."""
    phases = [f"{labels.LETTERS[phase]} {phase}" for phase in reversed(PHASES)]
    others = {
        SPLIT: "seeds disagree",
        UNDECIDED: "undecided",
        PLATEAU: ON_PLATEAU,
        NO_PHASE: "no phase",
        UNFINISHED: "diverged or failed",
        MISSING: "no result yet",
    }
    small = {labels.LETTERS[phase].lower() for phase in PHASES} & set(drawn)
    expected = [f"{', '.join(sorted(small))} expected, not trained"] if small else []
    marked = [f"{mark} {text}" for mark, text in others.items() if mark in drawn]
    return "  ".join(phases + marked + expected)
