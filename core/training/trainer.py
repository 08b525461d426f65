"""The pack trainer: meta-trains the cells of a pack together, step by step on the same batches.

The host only launches steps.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaphase.core import fast_paths, heap, schema
from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import (
    NUMERICS,
    Cell,
    ConfigError,
    grouped,
    pack_key,
    stack_key,
    stream_key,
)
from metaphase.core.devices import current
from metaphase.core.evaluation.distances import by_position, distances
from metaphase.core.evaluation.metrics import Further, SplitMetrics, split_metrics
from metaphase.core.evaluation.predictions import Predicted, Predictions
from metaphase.core.kernels.cpu import check
from metaphase.core.kernels.precision import float32_products
from metaphase.core.tasks import targets
from metaphase.core.tasks.sequences import STEPS_PER_DRAW, Batch, open_sequences
from metaphase.core.training import cost
from metaphase.core.training.captured import RepeatedStep
from metaphase.core.training.early_stopping import decided
from metaphase.core.training.stack import Stack
from metaphase.core.version import own_version


class PackTrainer:
    """Trains a pack to its next evaluation, again and again, until its steps are done.

    The cells of a shape are one stacked model. Sequences are made once for all cells that need the
    same ones, whatever their shapes.

    Attributes:
        cells: those of the pack, shape after shape, the costliest first; within a shape they have
            the order in which they were given.
        stacks: the stacked models; their cells, one stack after the other, are `cells`.
        step: steps trained so far.
        history: for each cell its rows of the history table so far (`schema.HISTORY_COLUMNS`).

    Args:
        cells: of one pack (`core.cell.pack_key` equal).
        device: where everything is computed.
        data_root: folder of the data sets.
        states: what `states()` returned for each of these cells, all at the same step, in whatever
            packs they were and in any order; training continues from there. None: start afresh.

    Raises:
        ConfigError: the cells don't fit in one pack, the states don't belong to them, a data set
            can't be had, or a plug-in fails.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        device: torch.device | str = "cpu",
        data_root: str | Path = "data",
        states: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        if not cells or len({pack_key(cell) for cell in cells}) != 1:
            raise ConfigError(f"cells: {len(cells)} cells of unequal settings can't share a pack")
        self.cell = cells[0]  # for the settings all of them share
        self.device = torch.device(device)
        if self.device.type == "cpu":
            check.warn_once()
            heap.hold(self)
        # The costliest comes first, so that the others find room in the memory that it needs.
        shapes = list(grouped(cells, stack_key).values())
        shapes.sort(key=lambda members: -cost.flops_per_step(members[0]))
        self.stacks = [Stack(members, self.device) for members in shapes]
        self.cells = tuple(cell for stack in self.stacks for cell in stack.cells)
        streams = grouped(cells, stream_key)
        self.sampler = open_sequences(
            [members[0] for members in streams.values()], data_root, self.device
        )
        self._further = Further(self.cell)
        self._state_size = [
            ARCHITECTURES[cell.architecture].layers.state_size(cell) for cell in self.cells
        ]
        self._rows = [self._rows_of(stack, list(streams)) for stack in self.stacks]
        self._predictions = Predictions.of(self.sampler, self.cell.eval_sequences)
        # The stream of each cell, and what the models said at the last evaluation, by split.
        self._stream = [list(streams).index(stream_key(cell)) for cell in self.cells]
        self._outputs: dict[str, Tensor] = {}

        self.step = 0
        self.history: list[list[dict[str, Any]]] = [[] for _ in cells]
        self.metrics: dict[str, SplitMetrics] = {}  # of the last evaluation, by split
        self.wall_seconds = [0.0 for _ in cells]  # each cell's share of its packs' time
        if self._further:
            self._try_metrics()
        if states is not None:
            self._restore(states)
        buffers = [buffer for stack in self.stacks for buffer in stack.buffers()]
        self._repeated_step = RepeatedStep(self.sampler.draw_training, buffers)

    def _rows_of(self, stack: Stack, streams: list[tuple]) -> Tensor | None:
        """row_R, the numbers of the streams that a stack's replicas see; None where that is each
        stream once, in order."""
        rows = [streams.index(stream_key(cell)) for cell in stack.cells]
        in_order = rows == list(range(len(streams)))
        return None if in_order else torch.tensor(rows, device=self.device)

    @property
    def finished(self) -> bool:
        """Whether every cell is trained and evaluated as far as it needs."""
        return all(self.finished_cells())

    @property
    def _in_history(self) -> bool:
        """Whether the history has an evaluation at this step."""
        return bool(self.history[0]) and self.history[0][-1]["step"] == self.step

    def finished_cells(self) -> list[bool]:
        """Whether each cell is finished: after its last step or, where it asks for that, as soon as
        its phase is settled (`core.training.early_stopping`).

        A caller may go on with the `states()` of the others.
        """
        evaluated = bool(self.metrics) and self._in_history
        if not evaluated or self.step == self.cell.steps:
            return [evaluated] * len(self.cells)
        unseen_level = self.sampler.levels.unseen
        return [
            cell.stop_when_decided and decided(rows, cell.problem.target.guess_loss, unseen_level)
            for cell, rows in zip(self.cells, self.history, strict=True)
        ]

    def advance(self, should_stop: Callable[[], bool] | None = None) -> bool:
        """Trains up to the next evaluation and evaluates.

        Args:
            should_stop: asked every `STEPS_PER_DRAW` steps.

        Returns:
            False if `should_stop` asked to stop before the evaluation.
        """
        started = time.perf_counter()
        try:
            if self._predictions is not None:
                self._predictions(schema.UNSEEN)  # whose mistakes are told before training
            eval_steps = self.cell.eval_steps
            target = eval_steps[min(bisect_right(eval_steps, self.step), len(eval_steps) - 1)]
            while self.step < target:
                if should_stop is not None and should_stop():
                    return False
                self.train(min(STEPS_PER_DRAW, target - self.step))
            self._evaluate()
            return True
        finally:
            self._share(time.perf_counter() - started)

    def _share(self, seconds: float) -> None:
        """Adds to each cell's time its share of the pack's, by floating-point operations."""
        flops = [cost.flops_per_step(cell) for cell in self.cells]
        per_flop = seconds / sum(flops)
        self.wall_seconds = [
            before + per_flop * own for before, own in zip(self.wall_seconds, flops, strict=True)
        ]

    def train(self, count: int) -> None:
        """Trains `count` steps, without evaluating."""
        with current(self.device), float32_products(self.cell.precision, self.device):
            for start in range(self.step, self.step + count, STEPS_PER_DRAW):
                step_J = torch.arange(start, start + STEPS_PER_DRAW, device=self.device)
                left = self.step + count - start
                self._repeated_step(self._train_step, step_J, min(STEPS_PER_DRAW, left))
        self.step += count

    def _train_step(self, draw: tuple[Tensor, ...], step_J: Tensor, j: Tensor) -> None:
        """Trains all stacks by the j-th of the steps drawn (j is int64, of shape (1,))."""
        batch, step = self.sampler.training_batch(draw, j), step_J.index_select(0, j)[0]
        for stack, row_R in zip(self.stacks, self._rows, strict=True):
            stack.train(batch.replicas(row_R), step)

    @torch.no_grad()
    def _evaluate(self) -> None:
        with current(self.device), float32_products(self.cell.precision, self.device):
            of_splits = {split: self._evaluate_split(split) for split in self.cell.splits}
        unit = targets.score_unit(self.cell.problem.target)
        losses = [loss_RxExT.flatten(1) for loss_RxExT, _, _ in of_splits.values()]
        sick_R = ~torch.cat(losses, dim=1).isfinite().all(dim=1)
        sizes = [len(stack.cells) for stack in self.stacks]
        for stack, sick_of_stack_R in zip(self.stacks, sick_R.split(sizes), strict=True):
            stack.note_divergence(sick_of_stack_R, self.step)
        diverged_R = torch.cat([stack.diverged_at_R for stack in self.stacks]).cpu() >= 0
        for outputs_RxExTxN in self._outputs.values():
            outputs_RxExTxN[diverged_R.to(self.device)] = math.nan
        self.metrics = {
            split: split_metrics(
                loss_RxExT, score_RxExT, diverged_R, unit, *self._with_distances(split, more)
            )
            for split, (loss_RxExT, score_RxExT, more) in of_splits.items()
        }
        for r, cell in enumerate(self.cells):
            self.history[r] += [
                {"cell_id": cell.cell_id, "step": self.step, "split": split, **metrics.row(r)}
                for split, metrics in self.metrics.items()
            ]

    def _evaluate_split(self, split: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """loss_RxExT and score_RxExT (`core.tasks.targets`) of every prediction of a split's
        sequences, and value_RxE of each further metric by column."""
        count, size = self.cell.eval_sequences, self.cell.batch_size
        parts = []
        for start in range(0, count, size):  # whole batches, so that shapes never change
            sequence_B = torch.arange(start, start + size, device=self.device)
            of_all = self.sampler.evaluation_batch(split, sequence_B)
            of_stacks = [
                self._measured(stack, of_all.replicas(row_R))
                for stack, row_R in zip(self.stacks, self._rows, strict=True)
            ]
            parts.append([_joined(of_kind, 0) for of_kind in zip(*of_stacks, strict=True)])
        own, further = (_joined(of_kind, 1) for of_kind in zip(*parts, strict=True))
        own, further = ({k: v[:, :count] for k, v in kind.items()} for kind in (own, further))
        if self._predictions is not None:
            self._outputs[split] = own["outputs"]
        return own["loss"], own["score"], further

    def _measured(self, stack: Stack, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a stack's predictions are measured by, and what further metrics say of them."""
        target, judged = self.cell.problem.target, batch.judged
        outputs_RxBxTxN = stack.predict(batch)
        own = {
            "loss": targets.loss(target, outputs_RxBxTxN, judged.y_RxBxT),
            "score": targets.scores(target, outputs_RxBxTxN, judged.y_RxBxT),
        }
        if self._predictions is not None:
            own["outputs"] = outputs_RxBxTxN
        return own, self._further.values(outputs_RxBxTxN, judged)

    @torch.no_grad()
    def _try_metrics(self) -> None:
        """Raises ConfigError if further metrics fail on predictions of a stack, before any
        training."""
        with current(self.device), float32_products(self.cell.precision, self.device):
            sequence_B = torch.arange(self.cell.batch_size, device=self.device)
            of_all = self.sampler.evaluation_batch(schema.UNSEEN, sequence_B)
            self._measured(self.stacks[0], of_all.replicas(self._rows[0]))

    def _beside(self, split: str) -> list[tuple[Tensor, Predicted]]:
        """Each cell's outputs_ExTxN on a split, and what its family's predictors say there; of a
        family without predictors an empty list."""
        if self._predictions is None:
            return []
        predicted = self._predictions(split)
        of_cells = [predicted[stream] for stream in self._stream]
        return list(zip(self._outputs[split], of_cells, strict=True))

    def _with_distances(
        self, split: str, further_RxE: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[dict[str, float | None]]]:
        """(value_RxE by column, each cell's numbers by column) of further metrics, distances to
        predictors among them."""
        found = [distances(self.cell.problem.target, *pair) for pair in self._beside(split)]
        names = dict.fromkeys(name for one in found for name in one.value_E)
        untold_E = torch.full(
            (self.cell.eval_sequences,), math.nan, dtype=torch.float64, device="cpu"
        )
        values = {
            name: torch.stack([one.value_E.get(name, untold_E).cpu() for one in found])
            for name in names
        }
        return {**further_RxE, **values}, [one.plain for one in found]

    def states(self) -> list[dict[str, Any]]:
        """Everything that each cell's training continues from, one dict a cell: tensors on the CPU,
        numbers and texts, fit for `torch.save` and `torch.load(weights_only=True)`."""
        of_stacks = [state for stack in self.stacks for state in stack.states()]
        return [
            {
                "cell_id": cell.cell_id,
                "step": self.step,
                "numerics": NUMERICS,
                **state,
                "wall_seconds": seconds,
                "history": [dict(row) for row in rows],
            }
            for cell, state, seconds, rows in zip(
                self.cells, of_stacks, self.wall_seconds, self.history, strict=True
            )
        ]

    def _restore(self, states: Sequence[dict[str, Any]]) -> None:
        by_id, steps = {state["cell_id"]: state for state in states}, {s["step"] for s in states}
        ids = [cell.cell_id for cell in self.cells]
        if by_id.keys() != set(ids) or len(states) != len(ids) or len(steps) != 1:
            raise ConfigError(
                f"states: of cells {list(by_id)} at steps {steps} don't fit this pack"
            )
        for stack in self.stacks:
            stack.restore([by_id[cell.cell_id] for cell in stack.cells])
        [self.step] = steps
        self.history = [[dict(row) for row in by_id[i]["history"]] for i in ids]
        self.wall_seconds = [by_id[i]["wall_seconds"] for i in ids]
        if self.step == self.cell.steps or (self._in_history and self.cell.stop_when_decided):
            self._evaluate_again()

    def _evaluate_again(self) -> None:
        """Computes the metrics of a restored pack that may be finished, whose history mostly has
        them."""
        history, self.history = self.history, [[] for _ in self.cells]
        self._evaluate()
        self.history = [
            rows if rows and rows[-1]["step"] == self.step else rows + new
            for rows, new in zip(history, self.history, strict=True)
        ]

    def results(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each cell's row of the cells table and its rows of the curves table (results/README.md),
        as of the last evaluation. They are meant for cells that `finished_cells` names."""
        assert self.metrics, "results are asked for before an evaluation"
        diverged_at = [step for stack in self.stacks for step in stack.diverged_at_R.tolist()]
        plateau = [step for stack in self.stacks for step in stack.plateau_steps_R.tolist()]
        levels = self.sampler.levels
        shared = {
            "steps_trained": self.step,
            "chance": levels.chance,
            "unseen_level": levels.unseen,
            "guess_loss": levels.guess_loss,
            "n": self.cell.eval_sequences,
            "device": device_name(self.device),
            "versions": _versions(),
            "numerics": NUMERICS,
            "switched_off": fast_paths.said() or None,
        }
        results = []
        for r, cell in enumerate(self.cells):
            diverged = diverged_at[r] >= 0
            row = {
                **cell.to_dict(),
                "cell_id": cell.cell_id,
                "own_settings": ",".join(name for name, _ in cell.own),
                "status": schema.DIVERGED if diverged else schema.DONE,
                "diverged_at": diverged_at[r] if diverged else None,
                "plateau_steps": plateau[r] if plateau[r] >= 0 else None,
                "num_parameters": cost.num_parameters(cell),
                "state_size": self._state_size[r],
                "wall_seconds": self.wall_seconds[r],
                **shared,
            }
            asked = schema.RELABELLED if cell.in_weights else ()
            row |= dict.fromkeys(schema.RELABELLED_COLUMNS)
            for split in (*schema.SPLITS, *asked):
                statistics = self.metrics[split].row(r)
                row |= {f"{split}_{k}": v for k, v in statistics.items() if k != "n"}
            results.append((row, self._curves(r)))
        return results

    def _curves(self, r: int) -> list[dict[str, Any]]:
        """Rows of the curves table of the r-th cell."""
        rows = []
        for split, metrics in self.metrics.items():
            points, target = metrics.curve(r), self.cell.problem.target
            if beside := self._beside(split):
                more = by_position(target, *beside[r])
                points = [{**p, **q} for p, q in zip(points, more, strict=True)]
            rows += [{"cell_id": self.cells[r].cell_id, "split": split, **p} for p in points]
        return rows


def _joined(parts: Sequence[dict[str, Tensor]], dim: int) -> dict[str, Tensor]:
    """Tensors of the same names, one behind the other."""
    return {name: torch.cat([part[name] for part in parts], dim=dim) for name in parts[0]}


def device_name(device: torch.device) -> str:
    """The name by which users know a device: the GPU's own, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions() -> str:
    return f"metaphase {own_version()}, torch {torch.__version__}"
