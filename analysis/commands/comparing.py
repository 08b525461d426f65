"""What `metaphase compare` does; `analysis.commands.compare` is its command line."""

from __future__ import annotations

import pandas as pd

from metaphase.analysis import labels, load
from metaphase.analysis.commands import compare_sweeps, options, output
from metaphase.analysis.published import comparisons, figure2, reference
from metaphase.analysis.statistics import phases
from metaphase.core import schema
from metaphase.core.phases import CONFIDENCE
from metaphase.sweeps import places


def run(
    path: str,
    other: str | None,
    against: str | None,
    out: str | None,
    delta: float,
    confidence: float,
    format: str,
    width: str,
    rule: str | None = None,
) -> None:
    """Compare the sweep at `path` with the one at `other`, or with published numbers; print, write
    to `out` (default: to `path`).

    Raises:
        ResultsError: results can't be read, or have nothing in common.
        ConfigError: the rule can't be had, or fails.
        OSError: the outputs can't be written.
    """
    if other is not None and against is not None:
        raise load.ResultsError("a second sweep and --reference: allowed is one of them")
    if rule is not None and other is None:
        raise load.ResultsError("--rule: published numbers have a rule of their own")
    if confidence != CONFIDENCE and other is None:
        raise load.ResultsError("--confidence: published numbers have a rule without intervals")
    by, out = options.rule(rule), out or path
    cells = load.load_cells(path)
    if other is not None:
        names = (_name(path), _name(other))
        names = names if names[0] != names[1] else (path, other)
        found = compare_sweeps.compare(cells, load.load_cells(other), names, delta, confidence, by)
    elif against == reference.TABLE2:
        found = [comparisons.beside_table2(cells, load.load_curves(path))]
    else:
        conditions = _transformers(cells, path)
        found = [comparisons.beside_figure2(*condition, delta) for condition in conditions]
    written = []
    for comparison in found:
        print(comparison.text, end="\n\n")
        for name, (_, table) in comparison.tables.items():
            output.write_table(out, name, table)
            written.append(name)
        name = output.write_figure(out, comparison.name, comparison.figure, format, width)
        written.append(f"{output.FIGURES}/{name}")
    print(f"wrote in {out}: {', '.join(written)}")


def _name(path: str) -> str:
    """What a sweep is called: its folder."""
    return places.parent(path)[1]


def _transformers(cells: pd.DataFrame, path: str) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """Conditions with finished transformers, and their cells; prints which others are left out."""
    found = []
    for condition, group in phases.split_conditions(cells):
        words = ", ".join(labels.condition_words(condition)) or _name(path)
        if group["architecture"].iloc[0] != figure2.ARCHITECTURE:
            print(f"left out: {words} (the reference: {figure2.ARCHITECTURE})")
        elif group["dataset"].isna().all():
            print(f"left out: {words} (no images; the reference: {reference.SETTINGS['dataset']})")
        elif not (group["status"] == schema.DONE).any():
            print(f"left out: {words} (no cell is done)")
        else:
            found.append((condition, group))
    if not found:
        raise load.ResultsError(f"{path}: no finished transformer cells to compare")
    return found
