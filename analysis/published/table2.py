"""A sweep beside the paper's Table 2: accuracy on datasets that were not meta-trained on.

Both sides are the accuracy at the last position, which is after the T - 1 examples before it: the
paper's after 99. Ours is the mean over the seeds that finished, with its standard error over
evaluation sequences and its interval over seeds; of the paper's, neither is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaphase.analysis import load
from metaphase.analysis.published import reference
from metaphase.analysis.questions import generalization
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE = "Kirsch et al. 2022, Table 2 (meta-trained on MNIST)"
EXAMPLES = 99  # before the paper's last position
_MARKERS = "osD^vPX<>"
_VALUE = ("accuracy", "accuracy_se")
COUNTERPARTS = {"transformer": "GPICL Transformer", "lstm": "LSTM"}  # the paper's method of ours


def has_datasets_in_common(cells: pd.DataFrame, curves: pd.DataFrame) -> bool:
    """Whether a finished cell was tested on a dataset of the table that it wasn't trained on."""
    done = cells.loc[cells["status"] == schema.DONE, "cell_id"]
    splits = curves.loc[curves["cell_id"].isin(done), "split"]
    others = {f"{schema.UNSEEN}/{name}" for name in reference.load_table2()["dataset"]}
    return bool(splits.isin(others).any())


def compare_datasets(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The paper's table and ours, one below the other.

    Args:
        cells: from `analysis.load.load_cells`.
        curves: from `analysis.load.load_curves`.

    Returns:
        A row a method and dataset: `source` (paper or ours), `method`, `trained_on`, `dataset`,
        `examples` (seen before), `accuracy`, `accuracy_se` (standard error over the sequences of
        all seeds), the ends `low` and `high` of its 95% interval over seeds (NaN: a single one),
        `seeds` (null: the paper's), and for ours `counterpart` (the paper's method of the same
        architecture, null if it has none) and `difference` (ours minus that one's accuracy).

    Raises:
        ResultsError: nothing in common with the reference.
    """
    paper = reference.load_table2().assign(
        source="paper", trained_on=reference.DATASET, examples=EXAMPLES, accuracy_se=np.nan,
        low=np.nan, high=np.nan, counterpart=None, difference=np.nan,
    )  # fmt: skip
    lengths = cells[["cell_id", "sequence_length"]]
    last = curves.merge(lengths, on="cell_id").query("position == sequence_length")
    ours = generalization.mean_over_seeds(cells, last[["cell_id", "split", *_VALUE]])
    ours = ours[ours["tested_on"].isin(paper["dataset"])]
    if ours.empty:
        raise load.ResultsError("no dataset in common with the reference")
    published = paper.set_index(["method", "dataset"])["accuracy"]
    counterpart = ours["architecture"].map(COUNTERPARTS)
    theirs = published.reindex(list(zip(counterpart, ours["tested_on"], strict=True))).to_numpy()
    length = ours.get("sequence_length", cells["sequence_length"].iloc[0])  # a column if it varies
    ours = ours.assign(
        dataset=ours["tested_on"], trained_on=ours["dataset"], source="ours", examples=length - 1,
        method=[generalization.label(row, ours) for row in ours.to_dict("records")],
        counterpart=counterpart, difference=ours["accuracy"] - theirs,
    )  # fmt: skip
    columns = ["source", "method", "trained_on", "dataset", "examples", "accuracy", "accuracy_se"]
    columns += ["low", "high", "seeds", "counterpart", "difference"]
    table = pd.concat([paper, ours], ignore_index=True)[columns]
    return table.astype({"seeds": "Int64"})  # null: not said


def describe(table: pd.DataFrame) -> str:
    """`compare_datasets` in text: a row a method, a column a dataset; below ours its errors."""
    names = list(dict.fromkeys(table["dataset"]))
    ours = table[table["source"] == "ours"]
    examples = ", ".join(str(n) for n in sorted(ours["examples"].unique()))
    rows: list[tuple[str, dict[str, str]]] = []
    for (source, method), group in table.groupby(["source", "method"], sort=False):
        at = group.set_index("dataset")
        rows.append((f"{source:5}  {method}", _texts(at["accuracy"], "{:.3f}")))
        if source == "ours":
            rows.append(("         ± standard error", _texts(at["accuracy_se"], "{:.3f}")))
            half = (at["high"] - at["low"]) / 2
            rows.append((f"         ± {CONFIDENCE:.0%} t interval", _texts(half, "{:.3f}")))
            rows.append(("         minus the paper's", _texts(at["difference"], "{:+.3f}")))
    width = max(len(name) for name, _ in rows) + 2
    notes = [
        f"note: ours are trained on {name}, the paper's on {reference.DATASET}"
        for name in ours["trained_on"].unique()
        if name != reference.DATASET
    ]
    return "\n".join(
        [
            f"accuracy at the last position beside {SOURCE}",
            f"examples before it: the paper's {EXAMPLES}, ours {examples}",
            "standard error: of the mean over seeds, from the evaluation sequences; t interval: "
            "over seeds (half)",
            *notes,
            " " * width + "".join(f"{name:>14}" for name in names),
            *(
                f"{name:<{width}}" + "".join(f"{texts.get(k, '.'):>14}" for k in names)
                for name, texts in rows
                if texts
            ),
        ]
    )


def _texts(values: pd.Series, format: str) -> dict[str, str]:
    """By dataset, those that are known; no negative zero."""
    return {str(k): format.format(round(v, 3) + 0.0) for k, v in values.dropna().items()}


def draw(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy by dataset, a symbol a method: open the paper's, filled ours with standard error.

    Methods of the same architecture have the same symbol.
    """
    from metaphase.analysis.figures import style

    unit = style.scale()
    names = list(dict.fromkeys(table["dataset"]))
    place = {name: i for i, name in enumerate(names)}
    methods = list(table.groupby(["source", "method"], sort=False))
    shift = np.linspace(-0.34, 0.34, len(methods))
    markers: dict[object, str] = {}
    for dx, ((source, method), rows) in zip(shift, methods, strict=True):
        counterpart = rows["counterpart"].iloc[0]
        marker = markers.get(counterpart) or _MARKERS[len(markers) % len(_MARKERS)]
        markers.setdefault(method, marker)
        look: dict[str, Any] = {"marker": marker, "ms": 4 * unit, "ls": ""}
        look["label"] = f"{source}: {method}"
        x = rows["dataset"].map(place).to_numpy(dtype=float) + dx
        if source == "paper":
            ax.plot(x, rows["accuracy"], color="#555555", mfc="white", **look)
        else:
            error = rows["accuracy_se"]
            ax.errorbar(x, rows["accuracy"], error, color=style.BLUE, elinewidth=0.8 * unit, **look)
    for between in range(1, len(names)):
        ax.axvline(between - 0.5, color="#dddddd", lw=0.6 * unit, zorder=0)
    ax.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(0, 1.03)
    ax.set_ylabel("accuracy at the last position")
    return ax


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Both sides by dataset, from `compare_datasets`."""
    from metaphase.analysis.figures import panels

    groups = table.groupby(["source", "method"], sort=False)
    names = [f"{source}: {method}" for (source, method), _ in groups]
    whole = panels.Panels(
        [1], 2.0, f"{title} beside {SOURCE}", ["bars: standard errors over sequences"], names,
        heads=False,
    )  # fmt: skip
    [ax] = whole.axes
    draw(table, ax)
    ax.tick_params(axis="x", labelrotation=30 if whole.width < 4 else 0)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    whole.legend([handles[name] for name in names])
    return whole.figure
