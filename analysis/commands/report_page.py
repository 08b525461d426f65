"""What `metaphase report` does, and its page; `analysis.commands.report` is its command line."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyarrow import fs

from metaphase.analysis import labels, load
from metaphase.analysis.commands import exports, options, output
from metaphase.analysis.figures import text_map
from metaphase.analysis.published import comparisons
from metaphase.analysis.questions import registry
from metaphase.analysis.statistics import phases, transitions, untrained
from metaphase.core import phase_rules, schema
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA
from metaphase.sweeps import places
from metaphase.sweeps.store import folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = "sweep.yaml"  # what the sweep was run with
DPI = 150


def run(
    path: str,
    out: str | None,
    delta: float,
    confidence: float,
    rule: str | None = None,
    interactive: bool = False,
) -> None:
    """Write the page of the sweep at `path` to `out`, a file or a folder for it (default: the
    sweep's).

    Args:
        interactive: the page of `metaphase serve` (`analysis.serving`), as a file.

    Raises:
        ResultsError: the results can't be read.
        ConfigError: the rule can't be had, or fails.
        OSError: the page can't be written.
    """
    if interactive:
        from metaphase.analysis.serving import standalone

        page = standalone.render(path, delta, confidence, options.rule(rule))
        name = standalone.FILE
    else:
        page, name = render(path, delta, confidence, options.rule(rule)), output.REPORT
    out = out or path
    if out == path or out.endswith("/") or output.is_folder(out):
        out = places.inside(out, name)
    output.write_file(*places.parent(out), page.encode())
    print(f"wrote {out}")


def render(
    path: str, delta: float = DELTA, confidence: float = CONFIDENCE, rule: Rule | None = None
) -> str:
    """The page as HTML, from `report.html.jinja`.

    Raises:
        ResultsError: the results can't be read, or no cell is finished yet.
    """
    cells = load.load_cells(path)
    classified = phases.classify(cells, delta, confidence, rule=rule)
    history, curves = load.load_history(path), load.load_curves(path)
    yardsticks, grid = load.load_yardsticks(path), load.load_grid(path)
    name, settings = labels.title(cells, {}), _settings(path)
    answers = [
        {
            "text": answer.text,
            "figure": answer.figure and _image(answer.figure, name, answer.caption),
        }
        for answer in registry.find(
            classified, history, yardsticks, delta, confidence, rule, curves
        )
    ]
    beside_published = [
        {
            "text": comparison.text,
            "figure": _image(comparison.figure, name, comparison.caption),
            "tables": comparison.tables.values(),
        }
        for comparison in comparisons.find(cells, curves, delta)
    ]
    return _template().render(
        name=name,
        counts=_counts(cells, history),
        failures=_failures(cells),
        commands=_commands(path, settings),
        answers=answers,
        conditions=[
            _section(condition, group, curves, yardsticks, grid, delta, confidence)
            for condition, group in phases.split_conditions(classified)
        ],
        comparisons=beside_published,
        delta=delta,
        confidence=confidence,
        rule=None if rule is None else phase_rules.name_of(rule),
        settings=settings,
        settings_file=SETTINGS,
    )


def _template() -> Any:
    import jinja2  # here, as only this command needs it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["table_text"] = table_text
    return environment.get_template(f"{output.REPORT}.jinja")


def table_text(value: object) -> str:
    """A table's value as the page shows it; what is missing is a dash."""
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:z.3f}".replace("inf", "∞") if isinstance(value, float) else str(value)


def _image(make: Callable[[], Figure], alt: str, caption: str) -> dict[str, str]:
    data = output.figure_bytes(make, "png", dpi=DPI)
    return {"data": base64.b64encode(data).decode(), "alt": alt, "caption": caption}


def _section(
    condition: dict[str, object],
    group: pd.DataFrame,
    curves: pd.DataFrame,
    yardsticks: pd.DataFrame,
    grid: pd.DataFrame | None,
    delta: float,
    confidence: float,
) -> dict[str, Any]:
    """What the page shows of one condition."""
    from metaphase.analysis.figures import condition as of_condition

    found = transitions.estimate_transitions(group)
    expected = untrained.expected(group, grid, condition)
    makers = of_condition.figures(
        group, curves, found, condition, delta, confidence, yardsticks, expected
    )
    if phases.is_one_point(group):  # no map of it
        makers = {name: make for name, make in makers.items() if name == "learning_curves"}
    title = ", ".join(labels.condition_words(condition)) or "Phases"
    alt = f"{labels.title(group, {})}, {title}"
    return {
        "title": title,
        "text": text_map.describe(group, found, condition, expected),
        "figures": [_image(make, alt, of_condition.CAPTIONS[key]) for key, make in makers.items()],
        "points": exports.grid_table(group).drop(columns="architecture"),  # a single one
    }


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
    """How many cells ended in which way, and how long they took."""
    training = history.loc[~history["cell_id"].isin(cells["cell_id"]), "cell_id"].nunique()
    status = cells["status"].value_counts()
    words = (schema.DONE, schema.DIVERGED, schema.FAILED)
    parts = [*(f"{status.get(word, 0)} {word}" for word in words), f"{training} in training"]
    text = f"{len(cells)} cells finished or given up: {', '.join(parts)}."
    if "wall_seconds" in cells:
        hours = cells["wall_seconds"].sum() / 3600
        devices = ", ".join(sorted({str(d) for d in cells.get("device", []) if d is not None}))
        text += f" {hours:.2f} hours of {devices or 'unknown devices'}."
    return text


def _failures(cells: pd.DataFrame) -> list[str]:
    """A line an error, with how many cells it befell."""
    errors = cells.loc[cells["status"] == schema.FAILED].get("error")
    return [] if errors is None else [f"{n}× {e}" for e, n in errors.value_counts().items()]


def _commands(path: str, settings: str | None) -> list[str]:
    """The commands that train the sweep and make its page, as they work wherever `path` does; the
    sweep's folder is its name."""
    lines = []
    if settings is not None:
        root, name = places.parent(path)
        preset = shlex.join([places.inside(path, SETTINGS), "--root", root])
        renamed = "" if _stored_name(settings) == name else f" --set name={shlex.quote(name)}"
        lines.append(f"metaphase run {preset}{renamed}")
    return [*lines, f"metaphase report {shlex.quote(path)}"]


def _stored_name(settings: str) -> str | None:
    """The sweep's name as its preset was stored."""
    found = re.search(r"^name: (\S+)$", settings, re.MULTILINE)
    return found[1].strip("'\"") if found else None
