"""What a sweep has come to: tables, phases, figures, trained models: `metaphase.load`."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis import load as tables
from metaphase.analysis.commands.exports import of_conditions
from metaphase.analysis.figures import text_map
from metaphase.analysis.load import ResultsError
from metaphase.analysis.questions import registry
from metaphase.analysis.statistics import phases, untrained
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.analysis.statistics.transitions import estimate_transitions
from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.core.phase_rules import RULES, Rule, of_callable
from metaphase.core.phase_rules import load as load_rule
from metaphase.core.phases import CONFIDENCE as OF_CELLS
from metaphase.core.phases import DELTA
from metaphase.shown import settle, shown, shown_by_notebooks
from metaphase.sweeps import places
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import has_settings, read_sweep
from metaphase.sweeps.store.tables import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metaphase.analysis.questions.answer import Answer
    from metaphase.core.trained import TrainedModel
    from metaphase.training import Sweep


def load(path: str | os.PathLike[str], rule: str | Rule | None = None) -> SweepResults:
    """The results of a sweep, finished or not.

        results = mp.load("results/quickstart")

    Args:
        path: the sweep's folder, `<root>/<sweep>`, or its URI.
        rule: that says cells' phases, as `classify` takes it.

    Raises:
        ResultsError: there is no sweep; one line.
        ConfigError: a URI or a rule that can't be used.
    """
    place = places.checked_sweep(os.fspath(path))
    if not has_settings(Results.at(place)):
        tables.load_cells(place)  # says what is wrong with the place, or that all is well
    return SweepResults(place, rule)


def classify(
    cells: pd.DataFrame,
    delta: float = DELTA,
    confidence: float = OF_CELLS,
    rule: str | Rule | None = None,
) -> pd.DataFrame:
    """The cells table with each cell's phase and the intervals that decided it; see
    `metaphase.analysis.statistics.phases.classify` and docs/definitions.md.

        mp.classify(results.cells, delta=0.1).phase.value_counts()
        mp.classify(results.cells, rule="accuracy")

    Args:
        rule: "accuracy", "predictors", a file's `"./mine.py:rule"`, the name of an installed
            package's, or a function of (cells, delta, confidence) that returns `phase` and
            `decided` (docs/extending.md). None: by predictors where cells were compared with them,
            else by accuracy.

    Raises:
        ConfigError: the rule can't be had, fails, or says what is no phase, or a number is out of
            range.
        ResultsError: it isn't a table of cells.
    """
    lacking = [name for name in ("status", *RESULTS) if name not in cells]
    if lacking:
        raise ResultsError(f"cells: the table lacks the columns {', '.join(lacking)}")
    return phases.classify(cells, delta, confidence, rule=_rule(rule))


def _rule(rule: str | Rule | None) -> Rule | None:
    if isinstance(rule, str):
        return load_rule(rule)
    if rule is None or rule in RULES.values():
        return rule
    return of_callable(rule, f"rule: {getattr(rule, '__name__', type(rule).__name__)}")


def transitions(
    cells: pd.DataFrame, confidence: float = CONFIDENCE, rule: str | Rule | None = None
) -> pd.DataFrame:
    """Where, in the number of tasks, identifying and generalizing begin and end, a set of rows for
    each model size, and for each condition if there are several (architectures, say).

        mp.transitions(results.cells[results.cells.seed < 4])

    Args:
        cells: a row a cell; classified ones keep their phases, others get them from `classify`.
        confidence: of the transitions' intervals.
        rule: that says the phases of all cells, as `classify` takes it.

    Returns:
        The settings that tell conditions apart, then the columns of
        `metaphase.analysis.statistics.transitions.estimate_transitions`.

    Raises:
        ResultsError: there are no cells.
    """
    keep = "phase" in cells and rule is None
    classified = cells if keep else classify(cells, rule=rule)
    if classified.empty:
        raise ResultsError("there are no cells to estimate transitions from")
    return of_conditions(
        [
            (told, estimate_transitions(group, confidence))
            for told, group in phases.split_conditions(classified)
        ]
    )


class SweepResults:
    """A sweep's results as of when they are first asked for; `load` again to see what is new.

    What it computes from tables, `metaphase plot` computes in the same way. Tables that can't be
    read, or hold nothing yet, raise ResultsError with one line.

    Args:
        rule: that says cells' phases, as `classify` takes it.

    Attributes:
        path: the sweep's folder or URI.
    """

    def __init__(self, path: str, rule: str | Rule | None = None) -> None:
        self.path = path if "://" in path else os.path.abspath(path)
        self._rule = _rule(rule)

    def __repr__(self) -> str:
        return f"<SweepResults {self.path}>"

    # --- tables: every column is described in results/README.md ---

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The finished cells, a row each: settings, status, accuracies with their errors."""
        return tables.load_cells(self.path)

    @cached_property
    def history(self) -> pd.DataFrame:
        """Evaluations during training; those of unfinished cells too."""
        return tables.load_history(self.path)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Accuracy at every position of the sequence, by cell and split."""
        return tables.load_curves(self.path)

    @cached_property
    def yardsticks(self) -> pd.DataFrame:
        """Known algorithms on the same sequences; empty before `metaphase yardsticks`."""
        return tables.load_yardsticks(self.path)

    @cached_property
    def phases(self) -> pd.DataFrame:
        """The cells with their phases: `classify(self.cells)`, by the rule of `load`."""
        return classify(self.cells, rule=self._rule)

    @cached_property
    def transitions(self) -> pd.DataFrame:
        """Where phases begin and end: `transitions(self.phases)`."""
        return transitions(self.phases)

    @property
    def sweep(self) -> Sweep:
        """The sweep as it was last run.

        Raises:
            ConfigError: its preset isn't stored there, or is damaged.
        """
        from metaphase.training import Sweep

        return Sweep._of(read_sweep(Results.at(self.path)))

    # --- trained models ---

    def model(
        self,
        cell_id: str | None = None,
        step: int | None = None,
        *,
        device: str | None = None,
        **settings: Any,
    ) -> TrainedModel:
        """A cell's trained model: named weights, predictions, activations.

            model = results.model(model_size=32, num_tasks=4096, seed=0)
            x, y = model.sequences("unseen", range(64))
            logits = model.predict(x, y)

        Args:
            cell_id: of the cells table; None: `settings` choose one of the finished cells.
            step: at which it was kept; None: the last.
            device: torch device of its predictions; None: the CPU.

        Raises:
            ConfigError: no model of the cell is kept (`metaphase.run(..., keep_models=True)`), the
                file is damaged, or the settings don't choose one cell.
        """
        if (cell_id is None) == (not settings):
            raise ConfigError("model: give a cell_id or settings that choose a cell")
        if cell_id is None:
            chosen = _select(self.cells, settings)
            if len(chosen) != 1:
                told = ", ".join(f"{key}={value}" for key, value in settings.items())
                raise ConfigError(f"model: {told} chooses {len(chosen)} cells; allowed: one")
            cell_id = str(chosen["cell_id"].iloc[0])
        return Results.at(self.path).models.load(cell_id, step, device)

    # --- what `metaphase plot` tells ---

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """What `metaphase plot` finds beside its maps, by the names of its files, such as "seeds",
        "training" or "relative_distance": each has a `table`, a `text` ("" where the table says
        all), and `figure`, which draws it, or None."""
        found = registry.find(
            self.phases, self.history, self.yardsticks, rule=self._rule, curves=self.curves
        )
        return {answer.name: shown_by_notebooks(answer) for answer in found}

    def text_map(self, *, rule: str | Rule | None = None, **settings: Any) -> str:
        """The phase map in letters, with where phases begin, as `metaphase plot` prints it.

        Args:
            rule: as `classify` takes it; None: the one that `load` was given.
            settings: that choose the cells of one condition, such as architecture="lstm".
        """
        cells = self._condition(settings, rule)
        expected = self._expected(cells, settings)
        return text_map.describe(cells, estimate_transitions(cells), settings, expected)

    def phase_map(
        self,
        ax: Axes | None = None,
        *,
        legend: bool = False,
        rule: str | Rule | None = None,
        **settings: Any,
    ) -> Axes | Figure:
        """The phase of every cell, over model size and number of tasks.

            fig, axes = plt.subplots(1, 2, layout="constrained")
            results.phase_map(axes[0], legend=True)

        Args:
            ax: where to draw, with matplotlib's settings as they are; None: a figure of its own, in
                the style of `metaphase plot`.
            legend: whether axes that are given get a legend, to their right.
            rule: as for `text_map`.
            settings: that choose the cells of one condition.

        Returns:
            The axes, or the figure; a notebook shows it.

        Raises:
            ResultsError: several conditions are left: which settings they differ in.
        """
        from metaphase.analysis.figures import outcomes, panels, phase_map, style, transition_marks

        cells = self._condition(settings, rule)
        found, expected = estimate_transitions(cells), self._expected(cells, settings)
        if ax is None:
            title = labels.title(cells, settings)
            with style.context():
                return shown(phase_map.figure(cells, found, title, expected=expected))
        settle(ax)
        table, marks = phase_map.tile_table(cells, expected), transition_marks.table(found)
        lettered = phase_map.draw(table, ax, marks)
        if legend:
            handles, names = outcomes.legend_handles(table, lettered)
            more, more_names = transition_marks.legend_handles(marks)
            ax.legend([*handles, *more], [*names, *more_names], loc="upper left",
                      bbox_to_anchor=(1.02, 1.0), **panels.LEGEND)  # fmt: skip
        return ax

    def accuracy(
        self, ax: Axes | None = None, *, split: str = schema.UNSEEN, **settings: Any
    ) -> Axes | Figure:
        """The accuracy at the last positions, over model size and number of tasks.

        Args:
            ax: where to draw; None: a figure of its own, with seen and unseen tasks.
            split: "seen" or "unseen" tasks, on axes that are given.
            settings: that choose the cells of one condition.

        Raises:
            ResultsError: as for `phase_map`.
        """
        from metaphase.analysis.figures import accuracy, style

        cells = self._condition(settings)
        _one_of("split", split, (schema.SEEN, schema.UNSEEN))
        if ax is None:
            with style.context():
                return shown(accuracy.figure(cells, labels.title(cells, settings)))
        settle(ax)
        seeds = accuracy.seed_table(cells, split)
        return accuracy.draw(accuracy.tile_table(cells, split), ax, seeds)

    def learning_curves(
        self, ax: Axes | None = None, *, split: str = schema.UNSEEN, **settings: Any
    ) -> Axes | Figure:
        """Accuracy against examples seen within a sequence, a line a cell.

            results.learning_curves(ax, model_size=32)

        Args:
            ax: where to draw cells of one model size; None: a figure of its own, a panel a model
                size and split.
            split: of the curves, on axes that are given.
            settings: that choose the cells of one condition.

        Raises:
            ResultsError: as for `phase_map`, or there are several model sizes on given axes.
        """
        from metaphase.analysis.figures import learning_curves as curves
        from metaphase.analysis.figures import style

        cells = self._condition(settings)
        if ax is None:
            with style.context():
                title = labels.title(cells, settings)
                return shown(curves.figure(self.curves, cells, title, self.yardsticks))
        _one_of("split", split, self.curves["split"].unique().tolist())
        sizes = sorted(cells["model_size"].unique())
        if len(sizes) > 1:
            raise ResultsError(
                f"model_size: axes hold one; choose one of {', '.join(map(str, sizes))}"
            )
        colors = style.sequence_colors([float(n) for n in sorted(cells["num_tasks"].unique())])
        table = curves.curve_table(self.curves, cells, split)
        drawn = curves.draw(table, ax, colors, True, style.level(cells, split))
        drawn.set(xlabel="examples seen", ylabel=f"accuracy, {split}")
        return drawn

    def _expected(self, cells: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame | None:
        """What is expected of points that a search didn't train; None: it is no search."""
        return untrained.expected(cells, tables.load_grid(self.path), settings)

    def _condition(self, settings: dict[str, Any], rule: str | Rule | None = None) -> pd.DataFrame:
        """The classified cells that have these settings; they are of one condition."""
        classified = self.phases if rule is None else classify(self.cells, rule=rule)
        cells = _select(classified, settings)
        if cells.empty:
            told = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise ResultsError(f"{self.path}: no finished cell has {told}")
        conditions = phases.split_conditions(cells)
        if len(conditions) > 1:
            keys = conditions[0][0]
            several = "; ".join(
                ", ".join(f"{key}={told[key]}" for key in keys) for told, _ in conditions[:10]
            )
            raise ResultsError(f"{self.path}: one map shows one condition; choose one: {several}")
        return cells


def _select(cells: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """The cells that have these settings."""
    for key, value in settings.items():
        if key not in cells:
            raise ConfigError(f"{key}: unknown setting; known: {', '.join(map(str, cells))}")
        wanted = schema.to_column(value)
        cells = cells[cells[key].map(lambda has, wanted=wanted: has == wanted)]
    return cells


def _one_of(name: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(map(str, allowed))}")
