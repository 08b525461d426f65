"""Classify a sweep's cells, draw its figures and print its phase map:

    python -m metaphase.analysis.phase_plot results/quickstart

writes `phases.csv` (a row a cell) and `figures/` into the sweep's folder. A half-finished sweep
gives a half-filled map.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaphase.analysis import load
from metaphase.analysis.commands import options
from metaphase.analysis.questions import experiments
from metaphase.analysis.statistics import phases, transitions
from metaphase.core import schema
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, place, sweep_parser
from metaphase.sweeps.store import places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV_COLUMNS = (
    "cell_id",
    "architecture",
    "model_size",
    "num_tasks",
    "seed",
    "status",
    "phase",
    "chance",
    "n",
    *schema.statistics_columns((schema.SEEN, schema.UNSEEN)),
)
LETTERS = {phase: phase[0].upper() for phase in phases.PHASES}
UNFINISHED, MISSING, SPLIT = "x", ".", "*"


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), run, argv)


def run(path: str, format: str, delta: float, confidence: float, out: str | None) -> None:
    """Read the sweep at `path`, write phases.csv and figures to `out` (default: there), print.

    Raises:
        ResultsError: the results can't be read.
        OSError: the outputs can't be written.
    """
    classified = phases.classify(load.load_cells(path), delta, confidence)
    history, curves = load.load_history(path), load.load_curves(path)
    yardsticks = load.load_yardsticks(path)
    in_training = history.loc[~history["cell_id"].isin(classified["cell_id"]), "cell_id"].nunique()
    conditions = phases.split_conditions(classified)

    out = out or path
    rows = classified[["cell_id", *(k for k in CSV_COLUMNS if k != "cell_id"), *_extra(conditions)]]
    options.write_file(out, "phases.csv", rows.to_csv(index=False).encode())
    names = []
    for condition, cells in conditions:
        found = transitions.estimate_transitions(cells)
        if len(conditions) > 1 and len(cells[["model_size", "num_tasks"]].drop_duplicates()) == 1:
            print(describe(cells, found, condition).splitlines()[0])  # no map of one point
            continue
        print(describe(cells, found, condition), end="\n\n")
        makers = figures(cells, curves, found, condition, delta, yardsticks)
        names += list(draw_all(out, makers, options.suffix(condition), format))
    files = ["phases.csv"]
    for experiment in experiments.find(classified, history, yardsticks):
        if experiment.text:
            print(experiment.text, end="\n\n")
        csv = experiment.table.to_csv(index=False).encode()
        options.write_file(out, f"{experiment.name}.csv", csv)
        files.append(f"{experiment.name}.csv")
        if experiment.figure is not None:
            names += list(draw_all(out, {experiment.name: experiment.figure}, "", format))
    if in_training:
        print(f"{in_training} cell{' is' if in_training == 1 else 's are'} in training")
    written = ", ".join(places.inside(out, name) for name in files)
    print(f"wrote {written} and {places.inside(out, 'figures')}: {', '.join(names)}")


def figures(
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    found: pd.DataFrame,
    condition: dict[str, object],
    delta: float,
    yardsticks: pd.DataFrame | None = None,
) -> dict[str, Callable[[], Figure]]:
    """The figures that one condition has results for, by name; drawn when they are called."""
    from metaphase.analysis.figures import plots  # here, so that a wrong path is told at once

    title = ", ".join([str(cells["sweep"].iloc[0]), *options.words(condition)])
    finished = cells[cells["status"] == schema.DONE]
    makers = {"phase_map": lambda: plots.phase_map_figure(cells, found, title)}
    if len(finished):
        makers["accuracy"] = lambda: plots.accuracy_figure(cells, title)
        makers["improvement"] = lambda: plots.improvement_figure(cells, title, delta)
    if curves["cell_id"].isin(finished["cell_id"]).any():
        makers["learning_curves"] = lambda: plots.curves_figure(curves, cells, title, yardsticks)
    return makers


def draw_all(
    out: str, makers: dict[str, Callable[[], Figure]], suffix: str, format: str
) -> Iterator[str]:
    """Write figures to `<out>/figures/`; yields their file names."""
    import matplotlib as mpl

    from metaphase.analysis.figures import style

    with mpl.rc_context(style.RC):
        for name, make in makers.items():
            data = options.figure_bytes(make(), format)
            options.write_file(places.inside(out, "figures"), f"{name}{suffix}.{format}", data)
            yield f"{name}{suffix}.{format}"


def describe(
    cells: pd.DataFrame, found: pd.DataFrame, condition: dict[str, object] | None = None
) -> str:
    """The text map of one condition, its legend, counts and transition estimates."""
    counts = [
        f"{n} {p}" for p, n in cells["phase"].value_counts()[list(phases.PHASES)[::-1]].items()
    ]
    unfinished = (cells["status"] != schema.DONE).sum()
    if unfinished:
        counts.append(f"{unfinished} of these diverged or failed")
    seeds = cells["seed"].nunique()
    words = options.words(condition or {})
    return "\n".join(
        [
            f"{', '.join([str(cells['sweep'].iloc[0]), *words])}: {len(cells)} cells, "
            f"{seeds} seed{'s' * (seeds != 1)}: {', '.join(counts)}",
            "",
            *text_map(phases.summarize_grid(cells)),
            "",
            *text_transitions(found),
        ]
    )


def text_map(points: pd.DataFrame) -> list[str]:
    """Lines of the map from `phases.summarize_grid`: the largest model size on top."""
    sizes = sorted(points["model_size"].unique(), reverse=True)
    tasks = sorted(points["num_tasks"].unique())
    marks = {}
    for row in points.to_dict("records"):
        mark = UNFINISHED
        if row["seeds"] > row["unfinished"]:
            split = row["agreement"] < 1 or row["unfinished"] > 0
            mark = LETTERS[row["phase"]] + SPLIT * split
        marks[row["model_size"], row["num_tasks"]] = mark
    powers = all(n & (n - 1) == 0 for n in tasks)
    heads = [str(n.bit_length() - 1 if powers else n) for n in map(int, tasks)]
    width = max(2, *map(len, heads)) + 1
    margin = max(len(options.power(s)) for s in sizes)
    lines = [
        f"{options.power(size):>{margin}} |"
        + "".join(f"{marks.get((size, n), MISSING):<2}".rjust(width) for n in tasks).rstrip()
        for size in sizes
    ]
    lines.append(" " * margin + " +" + "-" * (width * len(tasks)))
    lines.append(
        " " * margin + "  " + "".join(f"{head:<2}".rjust(width) for head in heads).rstrip()
    )
    return [
        "model size",
        *lines,
        " " * margin + "  " + f" number of tasks{', 2^' * powers}",
        f"G generalizing  I identifying  M memorizing  U untrained  {SPLIT} seeds disagree"
        f"  {UNFINISHED} diverged or failed  {MISSING} no result yet",
    ]


def text_transitions(found: pd.DataFrame) -> list[str]:
    """A line a model size from `transitions.estimate_transitions`."""
    lines = [f"number of tasks where a phase begins ({transitions.CONFIDENCE:.0%} interval)"]
    for size, rows in found.groupby("model_size", sort=True):
        parts = [f"{row['begins']} {_begins(row)}" for row in rows.to_dict("records")]
        lines.append(f"  model size {options.power(float(str(size)))}: {', '.join(parts)}")
    return lines


def _begins(row: dict[Hashable, Any]) -> str:
    if row["censored"] == transitions.BELOW:
        return f"at 2^{row['smallest']:g} or below"
    if row["censored"] == transitions.ABOVE:
        return f"not up to 2^{row['largest']:g}"
    if row["censored"] == transitions.UNCLEAR:
        return "unclear"
    low = f"2^{row['low']:.1f}" if np.isfinite(row["low"]) else f"below 2^{row['smallest']:g}"
    high = f"2^{row['high']:.1f}" if np.isfinite(row["high"]) else f"above 2^{row['largest']:g}"
    return f"2^{row['log2_num_tasks']:.1f} ({low} to {high})"


def _extra(conditions: list[tuple[dict[str, object], pd.DataFrame]]) -> list[str]:
    """Settings that the csv needs to tell conditions apart."""
    return [name for name in conditions[0][0] if name not in CSV_COLUMNS]


def _parser() -> Parser:
    parser = sweep_parser("plot", "Classify a sweep's cells and draw its phase diagrams.")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    options.add_phase_options(parser)
    parser.add_argument("--out", type=place, help="write there instead of into the sweep's folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
