"""A trained cell's model: its weights by name, and its predictions.

Its state is that of `core.training.trainer.PackTrainer.states`; here it also becomes tensors by
name, as files keep it, and the state of a cell with more steps.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.architectures import inspection, model
from metaphase.core.architectures.parameters import buffer_size, views
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.kernels.precision import float32_products
from metaphase.core.settings import as_line
from metaphase.core.tasks import TASK_FAMILIES, Classes
from metaphase.core.tasks.sequences import Batch, open_sequences
from metaphase.core.training.stack import Stack

# Rows of a state beside the weights, and how their tensors' names begin.
_BESIDE = {"moment1": "adam.moment1.", "moment2": "adam.moment2."}


_MOST = 2**32  # numbers that sequences of an evaluation have


class TrainedModel:
    """A cell's model with the weights that training came to.

    Attributes:
        cell: all of its settings.
        step: steps it was trained.
        weights: {name: tensor} of `core.architectures.model.parameters`, without the replica axis.
            They are what `predict` uses: what is changed in place shows in the predictions.

    Args:
        state: the cell's, of the right form (`core.training.checkpoint.check_state`).
        device: where predictions are computed.
    """

    def __init__(
        self, cell: Cell, state: Mapping[str, Any], device: torch.device | str = "cpu"
    ) -> None:
        self.cell, self.step = cell, int(state["step"])
        self._device = torch.device(device)
        with self._device:  # whatever device the caller makes tensors on
            self._stack = Stack([cell], self._device)
            self._stack.restore([dict(state)])
        self.weights = {name: p.detach()[0] for name, p in self._stack.parameters.items()}

    @torch.no_grad()
    def predict(self, x_BxTxX: Tensor, y_BxT: Tensor) -> Tensor:
        """outputs_BxTxN, float32, logits of classes or estimates of real targets; those at position
        t depend on x up to t and y before t.

        Args:
            x_BxTxX: inputs, T being the cell's sequence_length; tensors, or NumPy's arrays.
            y_BxT: labels, whole numbers below the number of classes; real targets are y_BxTxN.

        Raises:
            ConfigError: the shapes aren't these, or a label is none.
        """
        batch = self._batch(x_BxTxX, y_BxT)
        with float32_products(self.cell.precision, self._device), self._device:
            return self._stack.predict(batch)[0]

    @torch.no_grad()
    def activations(self, x_BxTxX: Tensor, y_BxT: Tensor) -> dict[str, Tensor]:
        """What the model computes of these sequences on its way, by name, in float32.

        Every model has `tokens`, B x L x D, which enter its layers, and `logits`, B x T x C. Of
        `interleaved` sequences token 2 j is x_j, where the prediction is read, and token 2 j + 1 is
        x_j with y_j; of `shifted` ones token j is x_j with the label before it. A Transformer has
        the entries of `core.architectures.inspection.activations` too, without the replica axis:
        `<i>.attention`, B x H x Q x L, is what block i's queries attend to, so that
        `activations["1.attention"][:, :, -1]` is where the last query looks in the second block.

        Args:
            x_BxTxX, y_BxT: as for `predict`.

        Raises:
            ConfigError: as for `predict`.
        """
        batch, cell, p = self._batch(x_BxTxX, y_BxT), self.cell, self._stack.parameters
        found: dict[str, Tensor] = {}

        def look(h_RxBxLxD: Tensor, stride: int) -> None:
            found["tokens"] = h_RxBxLxD
            if cell.architecture == "transformer":
                found.update(inspection.activations(p, h_RxBxLxD, cell, stride))

        with self._device:
            found["logits"] = model.predict(p, batch.x_RxBxTxX, batch.y_RxBxT, cell, look)
        return {name: value[0].clone() for name, value in found.items()}

    def _batch(self, x_BxTxX: Tensor, y_BxT: Tensor) -> Batch:
        """One replica's batch. Raises ConfigError as `predict`."""
        cell = self.cell
        try:
            x_BxTxX, y_BxT = (torch.as_tensor(t, device=self._device) for t in (x_BxTxX, y_BxT))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"x, y: not two tensors: {as_line(error)}") from None
        B = len(x_BxTxX) if x_BxTxX.dim() else 1
        shape, target = (B, cell.sequence_length, cell.input_size), cell.problem.target
        of_classes = isinstance(target, Classes)
        of_y = shape[:2] if of_classes else (*shape[:2], target.count)
        if tuple(x_BxTxX.shape) != shape or tuple(y_BxT.shape) != of_y:
            raise ConfigError(
                f"x and y are {tuple(x_BxTxX.shape)} and {tuple(y_BxT.shape)}; allowed: "
                f"B x {shape[1]} x {shape[2]} and B x {' x '.join(map(str, of_y[1:]))}"
            )
        if of_classes and (y_BxT.is_floating_point() or y_BxT.is_complex()):
            raise ConfigError(f"y: labels are {y_BxT.dtype}; allowed: whole numbers")
        if of_classes and ((y_BxT < 0) | (y_BxT >= target.count)).any():
            raise ConfigError(f"y: labels are out of range; allowed: 0 to {target.count - 1}")
        y_BxT = y_BxT.long() if of_classes else y_BxT.float()
        return Batch(x_BxTxX.float()[None], y_BxT[None])

    def sequences(
        self, split: str, numbers: Iterable[int], data_root: str | Path = "data"
    ) -> tuple[Tensor, Tensor]:
        """x_BxTxX and y_BxT: the sequences with these numbers that the cell is evaluated on; see
        `core.tasks.sequences.Sequences.evaluation_batch`.

        Args:
            split: train, seen, unseen, unseen/<dataset> of its unseen_datasets, or in_weights or
                in_context, whose y are the labels that are shown.
            numbers: from 0; the metrics are those of the first eval_sequences.
            data_root: folder of the data sets.

        Raises:
            ConfigError: there is no such split or number, or a data set can't be had.
        """
        batch = self._evaluation_batch(split, numbers, data_root)
        return batch.x_RxBxTxX[0].float(), batch.y_RxBxT[0]

    def answers(self, split: str, numbers: Iterable[int], data_root: str | Path = "data") -> Tensor:
        """y_BxT: what predictions on `sequences` are compared with: y, but for the split in_weights
        the labels that the task itself has. Args and errors are those of `sequences`."""
        return self._evaluation_batch(split, numbers, data_root).judged.y_RxBxT[0]

    def _evaluation_batch(self, split: str, numbers: Iterable[int], data_root: str | Path) -> Batch:
        family = TASK_FAMILIES[self.cell.task_family]
        asked = schema.RELABELLED if "in_weights" in family.settings else ()
        splits = dict.fromkeys((*self.cell.splits, *asked))
        if split not in splits:
            raise ConfigError(f"split: {split!r} is not one of {', '.join(splits)}")
        try:
            chosen = [operator.index(number) for number in numbers]
        except TypeError:
            chosen = [-1]
        if not chosen or not all(0 <= number < _MOST for number in chosen):
            raise ConfigError(f"numbers: {numbers!r}; allowed: whole numbers from 0 to {_MOST - 1}")
        sequence_B = torch.tensor(chosen, dtype=torch.int64, device=self._device)
        with self._device:
            sampler = open_sequences([self.cell], data_root, self._device)
            return sampler.evaluation_batch(split, sequence_B)


def named_tensors(cell: Cell, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a cell's state by name: weights by the names of
    `core.architectures.model.parameters`, Adam's moments with a prefix."""
    specs = model.parameters(cell)
    return {
        f"{prefix}{name}": view[0].clone()
        for row, prefix in {"theta": "", **_BESIDE}.items()
        for name, view in views(state[row][None], specs).items()
    }


def rows_of(cell: Cell, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `named_tensors`: theta and the moments.

    Raises:
        ValueError: a tensor is missing, or of another shape or type.
    """
    specs = model.parameters(cell)
    rows: dict[str, Tensor] = {}
    for row, prefix in {"theta": "", **_BESIDE}.items():
        flat_1xP = torch.zeros(1, buffer_size(specs), device="cpu")
        for name, view in views(flat_1xP, specs).items():
            found = tensors.get(f"{prefix}{name}")
            if found is None or found.shape != view.shape[1:] or found.dtype != torch.float32:
                raise ValueError(f"its tensor {prefix}{name} is missing, or of another shape")
            view[0].copy_(found)
        rows[row] = flat_1xP[0]
    return rows


def continued(cell: Cell, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state from which a cell goes on where one that differs from it in fewer steps ended: it
    is what the cell has itself after so many steps, if its learning rate doesn't depend on `steps`.

    Evaluations that are only the shorter cell's, after its last step, are left out.

    Raises:
        ValueError: the shorter one diverged, which the longer one may notice at another step.
    """
    if state["diverged_at"] >= 0:
        raise ValueError("it diverged")
    due = {step for step in cell.eval_steps if step <= state["step"]}
    rows = [{**r, "cell_id": cell.cell_id} for r in state["history"] if r["step"] in due]
    return {**state, "cell_id": cell.cell_id, "history": rows}
