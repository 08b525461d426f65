"""A results tree of cells that were compared with the best predictors, simulated.

Balls and urns (Wurgaft et al. 2025, arXiv 2506.17859): N urns over C symbols from a flat Dirichlet
distribution. M, G and the predictor without context are the exact ones, in NumPy; a cell's model is
a mixture of them with a share of its own of G, a deviation of the logits beside it, and how much it
has learned yet. Distances and losses are then computed as evaluations do.

    python -m tests.tools.predictor_tree results/synthetic-urns
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell
from tests.tools.synthetic import BASE

LENGTH, SYMBOLS = 24, 5
STEPS = (100, 300, 1000, 3000)
SHARES = np.linspace(0, 1, 11)  # of G in the mixtures that a model is compared with


@dataclass(frozen=True)
class Sequences:
    """Sequences of a split, `y_NxT`, and what the predictors say of them, `p_NxTxC` by name."""

    y_NxT: np.ndarray
    p: dict[str, np.ndarray]


def draw(
    rng: np.random.Generator, urn_UxC: np.ndarray, of_N: np.ndarray, known_KxC: np.ndarray,
    length: int = LENGTH,
) -> Sequences:  # fmt: skip
    """Sequences of the urns numbered `of_N`; M knows `known_KxC`."""
    n, C = len(of_N), urn_UxC.shape[1]
    edges_NxC = urn_UxC[of_N].cumsum(axis=1)
    y_NxT = (rng.random((n, length, 1)) > edges_NxC[:, None, :-1]).sum(axis=2)
    one_NxTxC = (y_NxT[..., None] == np.arange(C)).astype(float)
    before_NxTxC = one_NxTxC.cumsum(axis=1) - one_NxTxC
    log_NxTxK = before_NxTxC @ np.log(known_KxC).T
    weight_NxTxK = np.exp(log_NxTxK - log_NxTxK.max(axis=2, keepdims=True))
    weight_NxTxK /= weight_NxTxK.sum(axis=2, keepdims=True)
    total_T = np.arange(length)[:, None]
    return Sequences(
        y_NxT,
        {
            "memorizing": weight_NxTxK @ known_KxC,
            "generalizing": (before_NxTxC + 1) / (total_T + C),
            "no_context": np.full((n, length, C), 1 / C),
            "oracle": np.broadcast_to(urn_UxC[of_N][:, None], (n, length, C)),
        },
    )


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The symmetrized Kullback-Leibler divergence along the last axis, nats."""
    return ((p - q) * (np.log(p) - np.log(q))).sum(axis=-1) / 2


def measure(found: Sequences, model_NxTxC: np.ndarray) -> tuple[dict[str, float], pd.DataFrame]:
    """The columns of an evaluation's row, and of its curve, as `results/README.md` has them."""
    n, T = found.y_NxT.shape
    M, G = found.p["memorizing"], found.p["generalizing"]
    distance = {name: divergence(model_NxTxC, p) for name, p in found.p.items()}
    between = divergence(M, G)
    right = model_NxTxC.argmax(axis=-1) == found.y_NxT
    tail = -(-T // 10)
    values = {
        **{f"distance_{name}": d.mean(axis=1) for name, d in distance.items()},
        "distance_difference": (distance["memorizing"] - distance["generalizing"]).mean(axis=1),
        "distance_between": between.mean(axis=1),
        "first": right[:, 0].astype(float),
        "last": right[:, -tail:].mean(axis=1),
        "improvement": right[:, -tail:].mean(axis=1) - right[:, 0],
    }
    row: dict[str, float] = {}
    for name, value_N in values.items():
        row |= {name: value_N.mean(), f"{name}_se": value_N.std(ddof=1) / np.sqrt(n)}
    row["loss"] = -np.log(_chosen(model_NxTxC, found.y_NxT)).mean()
    far_WxT = np.stack([divergence(model_NxTxC, (1 - w) * M + w * G).mean(axis=0) for w in SHARES])
    best = int(far_WxT.mean(axis=1).argmin())
    known = row["distance_between"] > 3 * row["distance_between_se"]
    row |= {"relative_distance": SHARES[best] if known else np.nan, "relative_distance_se": 0.02}
    row |= {"off_line": far_WxT[best].mean(), "n": n}
    curve = {
        "position": np.arange(1, T + 1), "accuracy": right.mean(axis=0),
        "accuracy_se": right.std(axis=0, ddof=1) / np.sqrt(n), "n": n,
        "loss": -np.log(_chosen(model_NxTxC, found.y_NxT)).mean(axis=0),
        "distance_between": between.mean(axis=0),
        "relative_distance": SHARES[far_WxT.argmin(axis=0)],
    }  # fmt: skip
    for name, p in found.p.items():
        loss_NxT = -np.log(_chosen(p, found.y_NxT))
        row[f"loss_{name}"] = loss_NxT.mean()
        curve |= {f"loss_{name}": loss_NxT.mean(axis=0),
                  f"distance_{name}": distance[name].mean(axis=0)}  # fmt: skip
    return row, pd.DataFrame(curve)


def _chosen(p_NxTxC: np.ndarray, y_NxT: np.ndarray) -> np.ndarray:
    return np.take_along_axis(p_NxTxC, y_NxT[..., None], axis=-1)[..., 0]


def share_of_g(cell: Cell, step: int) -> float:
    """Generalizing first, then memorizing, the later the larger N is for the model's size."""
    room = np.log2(cell.num_tasks) - 0.8 * np.log2(step / 300) - 5 + 0.3 * np.log2(32)
    room -= 0.3 * np.log2(cell.model_size)
    return float(1 / (1 + np.exp(-1.5 * room)))


def learned(cell: Cell, step: int) -> float:
    """How far a model has come from knowing no context, 0 to 1."""
    return float(1 - np.exp(-step / 250))


def model(
    rng: np.random.Generator, found: Sequences, w: float, far: float, noise: float
) -> np.ndarray:
    """Predictions p_NxTxC: G's share w beside M, `far` from no context, with noisy logits."""
    p = (1 - w) * found.p["memorizing"] + w * found.p["generalizing"]
    p = (1 - far) * found.p["no_context"] + far * p
    logits = np.log(p) + noise * rng.standard_normal(p.shape)
    q = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return q / q.sum(axis=-1, keepdims=True)


def make(
    path: Path | str,
    model_sizes: Sequence[int] = (8, 32),
    num_tasks: Sequence[int] = (1, 4, 16, 64, 256),
    seeds: Sequence[int] = (0, 1),
    *,
    settings: Sequence[dict] = ({},),
    steps: Sequence[int] = STEPS,
    n: int = 128,
    noise: float = 0.1,
    w_of: Callable[[Cell, int], float] = share_of_g,
    base: Cell = BASE,
) -> Path:
    """Write the tree and return its path; equal arguments write equal numbers.

    Args:
        path: the sweep's folder.
        model_sizes, num_tasks, seeds: of the grid, repeated with each of `settings`.
        steps: of evaluations.
        n: sequences of an evaluation.
        noise: deviation of the models' logits, off the line from M to G.
        w_of: share of G by cell and step.
    """
    path = Path(path)
    tables: dict[str, list[pd.DataFrame]] = {"cells": [], "history": [], "curves": []}
    for tasks in num_tasks:
        for seed in seeds:
            rng = np.random.default_rng([tasks, seed])
            known_KxC = np.random.default_rng(seed).dirichlet(np.ones(SYMBOLS), tasks)
            new_NxC = rng.dirichlet(np.ones(SYMBOLS), n)
            seen = draw(rng, known_KxC, np.arange(n) % tasks, known_KxC)
            unseen = draw(rng, new_NxC, np.arange(n), known_KxC)
            for size in model_sizes:
                for more in settings:
                    cell = replace(
                        base, **{"key_size": None, "num_classes": SYMBOLS, "steps": steps[-1],
                                 "sequence_length": LENGTH, **more},
                        model_size=size, num_tasks=tasks, seed=seed,
                    )  # fmt: skip
                    splits = {schema.TRAIN: seen, schema.SEEN: seen, schema.UNSEEN: unseen}
                    _simulate(tables, path.name, cell, splits, steps, noise, w_of)
    for name, frames in tables.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        whole = pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)
        pq.write_table(whole, path / name / "compact-urns.parquet")
    return path


def _simulate(
    tables: dict[str, list[pd.DataFrame]], sweep: str, cell: Cell, splits: dict[str, Sequences],
    steps: Sequence[int], noise: float, w_of: Callable[[Cell, int], float],
) -> None:  # fmt: skip
    rng = np.random.default_rng([cell.num_tasks, cell.seed, cell.model_size])
    row = {
        **{name: schema.to_column(value) for name, value in cell.to_dict().items()},
        "cell_id": cell.cell_id, "sweep": sweep, "status": schema.DONE, "error": None,
        "diverged_at": None, "plateau_steps": 20.0, "steps_trained": cell.steps,
        "num_parameters": 12 * cell.model_size**2, "state_size": 2 * cell.model_size * LENGTH,
        "chance": 1 / SYMBOLS, "wall_seconds": 1.0, "device": "cpu", "versions": "{}",
        "numerics": NUMERICS, "unseen_level": 1 / SYMBOLS, "guess_loss": np.log(SYMBOLS),
    }  # fmt: skip
    for step in steps:
        w, far = w_of(cell, step), learned(cell, step)
        for split, found in splits.items():
            values, curve = measure(found, model(rng, found, w, far, noise))
            point = {"cell_id": cell.cell_id, "step": step, "split": split}
            tables["history"].append(pd.DataFrame([point | values]))
            if step == steps[-1]:
                row |= {f"{split}_{k}": v for k, v in values.items() if k != "n"}
                row["n"] = values["n"]
                tables["curves"].append(curve.assign(cell_id=cell.cell_id, split=split))
    tables["cells"].append(pd.DataFrame([row]))


if __name__ == "__main__":
    make(sys.argv[1])
