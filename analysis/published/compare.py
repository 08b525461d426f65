"""A sweep beside published numbers (analysis/reference):

    metaphase compare results/figure2 --reference kirsch2022-figure2
    metaphase compare results/table2 --reference kirsch2022-table2

prints a table and writes CSV files and a figure into the sweep's folder. What is compared, and how:
`analysis.published.figure2` and `analysis.published.table2`. A report shows what `find` finds.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import load
from metaphase.analysis.commands import options
from metaphase.analysis.published import figure2, reference, table2
from metaphase.analysis.statistics import phases
from metaphase.core import schema
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, place, sweep_parser
from metaphase.sweeps.store import places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    reference.FIGURE2: "Accuracy of the paper's models, of ours, and the difference, on seen and "
    "on unseen tasks. Lines: where accuracy on unseen tasks reaches half of its rise.",
    reference.TABLE2: "Accuracy on new tasks of every dataset tested on: open symbols the paper's, "
    "filled ones ours with their standard error.",
}
_PROBLEM = ("dataset", "num_classes")  # settings without which accuracies can't be compared


@dataclass(frozen=True)
class Comparison:
    """A sweep, or one of its conditions, beside one reference."""

    reference: str  # of reference.NAMES
    text: str
    tables: dict[str, tuple[str, pd.DataFrame]]  # by the name of their file, with what they are
    name: str  # of the figure's file
    figure: Callable[[], Figure]  # to be called with matplotlib's style set


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), run, argv)


def run(path: str, against: str, out: str | None, delta: float, format: str) -> None:
    """Compare the sweep at `path`, print, write to `out` (default: there).

    Raises:
        ResultsError: the results can't be read, or have nothing in common with the reference.
        OSError: the outputs can't be written.
    """
    out = out or path
    cells = load.load_cells(path)
    if against == reference.TABLE2:
        found = [_table2(cells, load.load_curves(path))]
    else:
        found = [_figure2(*each, delta) for each in _transformers(cells, path)]
    import matplotlib as mpl  # here, so that a wrong path is told at once

    from metaphase.analysis.figures import style

    written = []
    for comparison in found:
        print(comparison.text, end="\n\n")
        for name, (_, table) in comparison.tables.items():
            options.write_file(out, name, table.to_csv(index=False).encode())
            written.append(name)
        with mpl.rc_context(style.RC):
            data = options.figure_bytes(comparison.figure(), format)
        name = f"{comparison.name}.{format}"
        options.write_file(places.inside(out, "figures"), name, data)
        written.append(f"figures/{name}")
    print(f"wrote in {out}: {', '.join(written)}")


def find(
    cells: pd.DataFrame, curves: pd.DataFrame, delta: float = phases.DELTA
) -> Iterator[Comparison]:
    """Comparisons of what the sweep trained on the paper's problem, ten classes of MNIST.

    Figure 2: transformers at several numbers of tasks of its grid. Table 2: models that were tested
    on another of its datasets. Other sweeps have nothing to compare with.

    Args:
        cells: from `analysis.load.load_cells`.
        curves: from `analysis.load.load_curves`.
        delta: see `analysis.published.figure2`.
    """
    if not set(_PROBLEM) <= set(cells):
        return
    for name in _PROBLEM:
        cells = cells[cells[name] == reference.SETTINGS[name]]
    for condition, group in phases.split_conditions(cells) if len(cells) else []:
        if figure2.has_points_in_common(group):
            yield _figure2(condition, group, delta)
    if table2.has_datasets_in_common(cells, curves):
        yield _table2(cells, curves)


def _transformers(
    cells: pd.DataFrame, path: load.Path
) -> list[tuple[dict[str, object], pd.DataFrame]]:
    found = []
    for condition, group in phases.split_conditions(cells):
        if group["architecture"].iloc[0] != figure2.ARCHITECTURE:
            print(f"left out: {', '.join(options.words(condition))} (the reference: transformer)")
        elif not (group["status"] == schema.DONE).any():
            print(f"left out: {', '.join(options.words(condition))} (no cell is done)")
        else:
            found.append((condition, group))
    if not found:
        raise load.ResultsError(f"{path}: no finished transformer cells to compare")
    return found


def _figure2(condition: dict[str, object], group: pd.DataFrame, delta: float) -> Comparison:
    points = figure2.compare_points(group, delta)
    shifts = figure2.compare_transitions(points, delta).merge(
        figure2.seed_errors(group, points, delta), on=["model_size", "measure"], how="left"
    )
    end = options.suffix(condition)
    name = f"compare-{reference.FIGURE2}"
    title = ", ".join([str(group["sweep"].iloc[0]), *options.words(condition)])
    return Comparison(
        reference.FIGURE2,
        figure2.describe(group, points, shifts, condition),
        {
            f"{name}{end}.csv": ("Grid points in common", points),
            f"{name}-transitions{end}.csv": ("Where generalizing takes over", shifts),
        },
        f"{name}{end}",
        functools.partial(figure2.comparison_figure, points, shifts, title),
    )


def _table2(cells: pd.DataFrame, curves: pd.DataFrame) -> Comparison:
    table = table2.compare_datasets(cells, curves)
    name, title = f"compare-{reference.TABLE2}", str(cells["sweep"].iloc[0])
    return Comparison(
        reference.TABLE2, table2.describe(table),
        {f"{name}.csv": ("Accuracy by method and dataset", table)}, name,
        functools.partial(table2.comparison_figure, table, title),
    )  # fmt: skip


def _parser() -> Parser:
    parser = sweep_parser("compare", "Put a sweep beside published numbers.")
    parser.add_argument(
        "--reference", dest="against", choices=reference.NAMES, default=reference.FIGURE2
    )
    parser.add_argument("--out", type=place, help="write there instead of into the sweep's folder")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    parser.add_argument(
        "--delta", type=options.number(0, 1, True), default=phases.DELTA,
        help="least accuracy above chance that counts (default: %(default)s)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
