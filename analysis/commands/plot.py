"""What `metaphase plot` does; `analysis.phase_plot` is its command line."""

from __future__ import annotations

import pandas as pd

from metaphase.analysis import labels, load
from metaphase.analysis.commands import exports, options, output
from metaphase.analysis.figures import text_map
from metaphase.analysis.questions import registry
from metaphase.analysis.statistics import phases, training_phases, transitions, untrained
from metaphase.core import schema
from metaphase.sweeps import places


def run(
    path: str,
    format: str,
    width: str,
    delta: float,
    confidence: float,
    at_step: int | None,
    latex: bool,
    out: str | None,
    rule: str | None,
) -> None:
    """Read the sweep at `path`, write tables and figures to `out` (default: there), print.

    Raises:
        ResultsError: the results can't be read, or nothing was evaluated up to `at_step`.
        ConfigError: the rule can't be had, or fails.
        OSError: the outputs can't be written.
    """
    by = options.rule(rule)
    cells, history, curves = load.load_cells(path), load.load_history(path), load.load_curves(path)
    yardsticks, grid = load.load_yardsticks(path), load.load_grid(path)
    in_training = history.loc[~history["cell_id"].isin(cells["cell_id"]), "cell_id"].nunique()
    if at_step is not None:
        cells, history, curves = _as_of(path, cells, history, curves, at_step)
    classified = phases.classify(cells, delta, confidence, rule=by)
    conditions = phases.split_conditions(classified)
    from metaphase.analysis.figures import condition as of_condition  # slow: after what may fail

    out = out or path
    found = [(told, transitions.estimate_transitions(group)) for told, group in conditions]
    grids = [(told, exports.grid_table(group)) for told, group in conditions]
    tables = {
        "phases.csv": exports.phases_table(classified, conditions),
        "grid.csv": exports.of_conditions(grids),
        "transitions.csv": exports.of_conditions(found),
    }
    names = []
    for (told, group), (_, boundaries) in zip(conditions, found, strict=True):
        expected = untrained.expected(group, grid, told)
        text = text_map.describe(group, boundaries, told, expected)
        if len(conditions) > 1 and phases.is_one_point(group):
            print(text.splitlines()[0])  # no map of one point
            continue
        print(text, end="\n\n")
        makers = of_condition.figures(
            group, curves, boundaries, told, delta, confidence, yardsticks, expected
        )
        names += [
            output.write_figure(out, f"{name}{labels.file_suffix(told)}", make, format, width)
            for name, make in makers.items()
        ]
    for answer in registry.find(classified, history, yardsticks, delta, confidence, by, curves):
        if answer.text:
            print(answer.text, end="\n\n")
        tables[f"{answer.name}.csv"] = answer.table
        if answer.figure is not None:
            names.append(output.write_figure(out, answer.name, answer.figure, format, width))
    for name, table in tables.items():
        output.write_table(out, name, table)
    files = [*tables, *(_write_latex(out, grids, found) if latex else [])]
    if in_training:
        print(f"{in_training} cell{' is' if in_training == 1 else 's are'} in training")
    written = ", ".join(places.inside(out, name) for name in files)
    print(f"wrote {written} and {places.inside(out, output.FIGURES)}: {', '.join(names)}")


def _as_of(
    path: str, cells: pd.DataFrame, history: pd.DataFrame, curves: pd.DataFrame, step: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables as of a step of training; curves are of the end alone, so there are none then."""
    history = history[history["step"] <= step]
    then = training_phases.as_of(cells, history, step)
    if then.empty:
        raise load.ResultsError(f"{path}: no finished cell was evaluated at step {step} or before")
    failed = int((cells["status"] == schema.FAILED).sum())
    left_out = len(cells) - len(then) - failed
    print(
        f"as of step {step}: {len(then)} cells at their last evaluation until then"
        + f", {left_out} not evaluated yet" * (left_out > 0)
        + f", {failed} that failed left out" * (failed > 0)
    )
    return then, history, curves.iloc[:0]


def _write_latex(out: str, grids: exports.Conditions, found: exports.Conditions) -> list[str]:
    """A grid and a transitions table for each condition; returns the files' names."""
    files = []
    for (told, grid), (_, boundaries) in zip(grids, found, strict=True):
        end = labels.file_suffix(told)
        texts = {
            f"grid{end}.tex": exports.latex_grid(grid),
            f"transitions{end}.tex": exports.latex_transitions(boundaries),
        }
        for name, text in texts.items():
            output.write_file(out, name, text.encode())
            files.append(name)
    return files
