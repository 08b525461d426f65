"""Classify a sweep's cells, draw its figures and print its phase map:

    metaphase plot results/quickstart

writes `phases.csv` (a row a cell), a table for each question that the sweep answers, and `figures/`
into the sweep's folder. A half-finished sweep gives a half-filled map.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from metaphase.analysis import labels, load
from metaphase.analysis.commands import options, output
from metaphase.analysis.figures import text_map
from metaphase.analysis.questions import registry
from metaphase.analysis.statistics import phases, transitions
from metaphase.core import schema
from metaphase.core.process import as_command
from metaphase.sweeps import places
from metaphase.sweeps.commands.parser import Parser, sweep_parser

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


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), run, argv)


def run(path: str, format: str, delta: float, confidence: float, out: str | None) -> None:
    """Read the sweep at `path`, write tables and figures to `out` (default: there), print.

    Raises:
        ResultsError: the results can't be read.
        OSError: the outputs can't be written.
    """
    classified = phases.classify(load.load_cells(path), delta, confidence)
    history, curves = load.load_history(path), load.load_curves(path)
    yardsticks = load.load_yardsticks(path)
    in_training = history.loc[~history["cell_id"].isin(classified["cell_id"]), "cell_id"].nunique()
    conditions = phases.split_conditions(classified)
    from metaphase.analysis.figures import condition as of_condition  # slow: after what may fail

    out = out or path
    output.write_table(out, "phases.csv", classified[_csv_columns(conditions)])
    names = []
    for condition, cells in conditions:
        found = transitions.estimate_transitions(cells)
        text = text_map.describe(cells, found, condition)
        if len(conditions) > 1 and len(cells[["model_size", "num_tasks"]].drop_duplicates()) == 1:
            print(text.splitlines()[0])  # no map of one point
            continue
        print(text, end="\n\n")
        makers = of_condition.figures(
            cells, curves, found, condition, delta, confidence, yardsticks
        )
        names += [
            output.write_figure(out, f"{name}{labels.file_suffix(condition)}", make, format)
            for name, make in makers.items()
        ]
    files = ["phases.csv"]
    for answer in registry.find(classified, history, yardsticks):
        if answer.text:
            print(answer.text, end="\n\n")
        files.append(f"{answer.name}.csv")
        output.write_table(out, files[-1], answer.table)
        if answer.figure is not None:
            names.append(output.write_figure(out, answer.name, answer.figure, format))
    if in_training:
        print(f"{in_training} cell{' is' if in_training == 1 else 's are'} in training")
    written = ", ".join(places.inside(out, name) for name in files)
    print(f"wrote {written} and {places.inside(out, output.FIGURES)}: {', '.join(names)}")


def _csv_columns(conditions: list[tuple[dict[str, object], pd.DataFrame]]) -> list[str]:
    """`CSV_COLUMNS` and the settings that tell conditions apart."""
    return list(dict.fromkeys([*CSV_COLUMNS, *conditions[0][0]]))


def _parser() -> Parser:
    parser = sweep_parser("plot", "Classify a sweep's cells and draw its phase diagrams.")
    options.add_format(parser)
    options.add_delta(parser)
    options.add_confidence(parser)
    options.add_out(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
