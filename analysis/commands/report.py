"""One page with everything about a sweep, for who wasn't there:

    metaphase report results/quickstart

writes `report.html` into the sweep's folder: figures, phases, transition estimates, counts, the
settings and how to train it again. The page is one file: its figures are inside, it loads nothing,
and it runs no script. A half-finished sweep gives a page of what there is.
"""

from __future__ import annotations

import base64
import html
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from pyarrow import fs

from metaphase.analysis import load, phase_plot
from metaphase.analysis.commands import options
from metaphase.analysis.published import compare
from metaphase.analysis.questions import experiments
from metaphase.analysis.statistics import phases, transitions
from metaphase.core import schema
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, place, sweep_parser
from metaphase.sweeps.store import folders, places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "report.html"
SETTINGS = "sweep.yaml"  # what the sweep was run with
DPI = 150

# The browser itself enforces that nothing is loaded and nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: white }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
img { max-width: 100% } figure { margin: 1.5rem 0 } figcaption { color: #555; font-size: 13px }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 12px; line-height: 1.4 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: .15rem .4rem; text-align: right; border-bottom: 1px solid #e5e5e5 }
td { white-space: nowrap } th { border-bottom: 1px solid #888; vertical-align: bottom }
details { margin: .6rem 0 } summary { cursor: pointer }
"""
CAPTIONS = {
    "phase_map": "Phase of every cell; a grid point's seeds stand side by side.",
    "accuracy": "Accuracy at the last tenth of the positions, mean over seeds.",
    "improvement": "Improvement within the sequence: a dot a seed, with its interval.",
    "learning_curves": "Accuracy against examples seen. Lines with symbols, if any: known "
    "learning algorithms, fitted to the same examples.",
    **experiments.CAPTIONS,
    **compare.CAPTIONS,
}


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), run, argv)


def run(path: str, out: str | None, delta: float, confidence: float) -> None:
    """Write the page of the sweep at `path` to `out`, a file or a folder for `FILE` (default: the
    sweep's).

    Raises:
        ResultsError: the results can't be read.
        OSError: the page can't be written.
    """
    page = render(path, delta, confidence)
    out = out or path
    if out == path or out.endswith("/") or options.is_folder(out):
        out = places.inside(out, FILE)
    options.write_file(*places.parent(out), page.encode())
    print(f"wrote {out}")


def render(path: str, delta: float = phases.DELTA, confidence: float = phases.CONFIDENCE) -> str:
    """The page as HTML.

    Raises:
        ResultsError: the results can't be read, or no cell is finished yet.
    """
    import matplotlib as mpl  # here, so that a wrong path is told at once

    cells = load.load_cells(path)
    from metaphase.analysis.figures import style

    classified = phases.classify(cells, delta, confidence)
    history, curves = load.load_history(path), load.load_curves(path)
    yardsticks = load.load_yardsticks(path)
    name = str(cells["sweep"].iloc[0])
    settings = _settings(path)
    parts = [_heading("h1", name), _counts(cells, history), _rerun(path, settings)]
    with mpl.rc_context({**style.RC, "savefig.dpi": DPI}):
        found = experiments.find(classified, history, yardsticks)
        if found:
            parts.append(_heading("h2", "Whole sweep"))
        for experiment in found:
            parts += [_text(experiment.text)] if experiment.text else []
            if experiment.figure is not None:
                parts.append(_figure(experiment.kind, experiment.figure, name))
        conditions = phases.split_conditions(classified)
        for condition, group in conditions:
            title = ", ".join(options.words(condition)) or "Phases"
            begins = transitions.estimate_transitions(group)
            parts.append(_heading("h2", title))
            parts.append(_text(phase_plot.describe(group, begins, condition)))
            figures = phase_plot.figures(group, curves, begins, condition, delta, yardsticks)
            if len(group[["model_size", "num_tasks"]].drop_duplicates()) == 1:
                figures = {k: v for k, v in figures.items() if k == "learning_curves"}  # no map
            parts += [_figure(key, make, f"{name}, {title}") for key, make in figures.items()]
            parts.append(_points(group))
        compared = list(compare.find(cells, curves, delta))
        if compared:
            parts.append(_heading("h2", "Beside the paper"))
        for comparison in compared:
            parts.append(_text(comparison.text))
            parts.append(_figure(comparison.reference, comparison.figure, name))
            for summary, table in comparison.tables.values():
                parts.append(_folded(table, f"{summary}, as a table"))
    parts += [
        _heading("h2", "How phases are decided"),
        _paragraph(
            f"With delta {delta:g} and intervals at {confidence:.0%}: generalizing, if accuracy "
            "improves within sequences of unseen tasks by more than delta and the interval "
            "excludes 0; else identifying, if the same holds on seen tasks; else memorizing, if "
            "the first position on seen tasks is above chance by more than delta and the interval "
            "excludes chance; else untrained. First position: Wilson's interval; improvement: "
            "Bonett & Price's; where phases begin: posterior medians, see analysis/transitions.py."
        ),
    ]
    if settings is not None:
        parts += [_heading("h2", f"Settings ({SETTINGS})"), _text(settings)]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{html.escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _settings(path: str) -> str | None:
    """The stored preset as text; None if there is none."""
    filesystem, folder = load.open_folder(path)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            folders.check_is_file(f"{folder}/{SETTINGS}")
        with filesystem.open_input_stream(f"{folder}/{SETTINGS}") as file:
            return file.read().decode(errors="replace")
    except (FileNotFoundError, OSError):
        return None


def _counts(cells: pd.DataFrame, history: pd.DataFrame) -> str:
    training = history.loc[~history["cell_id"].isin(cells["cell_id"]), "cell_id"].nunique()
    status = cells["status"].value_counts()
    parts = [f"{status.get(word, 0)} {word}" for word in (schema.DONE, schema.DIVERGED)]
    parts += [f"{status.get(schema.FAILED, 0)} {schema.FAILED}", f"{training} in training"]
    text = f"{len(cells)} cells finished or given up: {', '.join(parts)}."
    if "wall_seconds" in cells:
        hours = cells["wall_seconds"].sum() / 3600
        devices = ", ".join(sorted({str(d) for d in cells.get("device", []) if d is not None}))
        text += f" {hours:.2f} hours of {devices or 'unknown devices'}."
    errors = cells.loc[cells["status"] == schema.FAILED].get("error")
    lines = [] if errors is None else [f"{n}× {e}" for e, n in errors.value_counts().items()]
    return _paragraph(text) + (_text("failures:\n" + "\n".join(lines)) if lines else "")


def _rerun(path: str, settings: str | None) -> str:
    """The commands, as they work wherever `path` does; the sweep's folder is its name."""
    lines = []
    if settings is not None:
        root, name = places.parent(path)
        preset = shlex.join([places.inside(path, SETTINGS), "--root", root])
        renamed = "" if _name(settings) == name else f" --set name={shlex.quote(name)}"
        lines.append(f"metaphase run {preset}{renamed}")
    lines.append(f"metaphase report {shlex.quote(path)}")
    return _paragraph(
        "To train what is missing and make this page anew (name another --root to train it all "
        "again):"
    ) + _text("\n".join(lines))


def _name(settings: str) -> str | None:
    """The sweep's name as its preset was stored."""
    found = re.search(r"^name: (\S+)$", settings, re.MULTILINE)
    return found[1].strip("'\"") if found else None


def _points(group: pd.DataFrame) -> str:
    """A folded table of the condition's grid points."""
    points = phases.summarize_grid(group)
    done = group[group["status"] == schema.DONE]
    means = done.groupby(phases.GRID_POINT)[
        [f"{split}_{schema.LAST}" for split in (schema.SEEN, schema.UNSEEN)]
    ].mean()
    table = points.join(means, on=phases.GRID_POINT).drop(columns="architecture")  # a single one
    return _folded(table, f"Grid points ({len(table)}), as a table")


def _folded(table: pd.DataFrame, summary: str) -> str:
    """A table that opens on a click."""
    head = "".join(f"<th>{html.escape(str(c).replace('_', ' '))}</th>" for c in table.columns)
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(_value(v))}</td>" for v in row) + "</tr>"
        for row in table.itertuples(index=False)
    ]
    return (
        f"<details><summary>{html.escape(summary)}</summary>\n<table>\n"
        f"<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>\n</details>"
    )


def _value(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:z.3f}".replace("inf", "∞") if isinstance(value, float) else str(value)


def _figure(key: str, make: Callable[[], Figure], alt: str) -> str:
    data = base64.b64encode(options.figure_bytes(make(), "png")).decode()
    caption = CAPTIONS.get(key, key.replace("_", " "))
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(f"{alt}: {caption}")}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _heading(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(text)}</{tag}>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _text(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _parser() -> Parser:
    parser = sweep_parser("report", "Write one HTML page with a sweep's figures and numbers.")
    parser.add_argument(
        "--out", metavar="FILE", type=place,
        help=f"a file, or a folder for {FILE} (default: {FILE} in the sweep's folder)",
    )  # fmt: skip
    options.add_phase_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
