"""What a check is given: a plug-in, in cells small enough to be trained in a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from metaphase.core.architectures.classes import seeded
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.plugins import REGISTRIES
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.core.tasks.sequences import Sequences, open_sequences
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer

STEPS = 6  # that checks train for


class Broken(AssertionError):
    """A promise is broken. The message is a sentence."""


def require(holds: bool, sentence: str) -> None:
    """Raises Broken with this sentence unless something holds."""
    if not holds:
        raise Broken(sentence)


@dataclass(frozen=True)
class Subject:
    """A plug-in to check.

    Attributes:
        kind, name: of the plug-in.
        settings: of all cells, beside the small ones given here.
        data_root: folder of the data sets.
    """

    kind: str
    name: str
    settings: Mapping[str, Any]
    data_root: str

    def cell(self, **settings: Any) -> Cell:
        """A small cell that uses it."""
        named = {self.kind: (self.name,) if self.kind == "metrics" else self.name}
        values: dict[str, Any] = {
            **{"model_size": 8, "num_layers": 1, "num_heads": 2, "num_tasks": 16},
            **{"sequence_length": 8, "batch_size": 4, "steps": STEPS, "eval_every": 3},
            **{"eval_sequences": 8, "warmup_steps": 0, "learning_rate": 0.01},
            **(named if self.kind in REGISTRIES else {}),  # cells name no rule
            **self.settings,
            **settings,
        }
        if "token_format" not in values:
            try:
                return Cell.from_dict(values)
            except ConfigError as error:
                if not str(error).startswith("token_format"):
                    raise
                values["token_format"] = "shifted"
        return Cell.from_dict(values)

    def sequences(self, *cells: Cell) -> Sequences:
        """The sequences of streams, of which these are a cell each."""
        return open_sequences(cells, self.data_root, "cpu")

    def trainer(self, *cells: Cell, states: Any = None) -> PackTrainer:
        """Their trainer."""
        return PackTrainer(cells, data_root=self.data_root, states=states)

    @property
    def entry(self) -> Any:
        """What its registry knows of it."""
        return REGISTRIES[self.kind][self.name]

    @property
    def draws_itself(self) -> bool:
        """Whether it is a family whose sequences `core.tasks.drawn_sequences` makes."""
        return not TASK_FAMILIES[self.name].projects


def train(trainer: PackTrainer) -> PackTrainer:
    """Trains to the end."""
    while not trainer.finished:
        trainer.advance()
    return trainer


def theta_of(trainer: PackTrainer, cell: Cell) -> Tensor:
    """The weights of a cell in a trainer."""
    [state] = [s for s in trainer.states() if s["cell_id"] == cell.cell_id]
    theta: Tensor = state["theta"]
    return theta


def same(a: Tensor, b: Tensor, to_rounding: bool = False) -> bool:
    """Whether two tensors are equal, to the bit unless said otherwise."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if to_rounding:
        return bool(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4))
    return bool(torch.equal(a, b))


@contextlib.contextmanager
def without_a_host(what: str) -> Iterator[None]:
    """On tensors that have no numbers (device `meta`), where nothing can be read back."""
    try:
        # Autocast doesn't know such tensors.
        with mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext()):
            yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise Broken(
            f"{what} needs numbers on the host ({line}). Steps are launched without looking at "
            "their numbers: don't use item(), tolist(), bool() of a tensor, nonzero(), masks as "
            "indices or NumPy; use torch.where and tensors made on the device of those given."
        ) from None


def alone_equals_packed(subject: Subject, to_rounding: bool = False) -> None:
    """Trains a cell alone and beside others, and compares weights and metrics; to rounding losses
    alone, since Adam makes steps of rounding where a gradient is 0, as those of attention's key
    biases are.
    """
    cell = subject.cell(num_tasks=4, seed=1)
    others = [subject.cell(num_tasks=4, seed=s, learning_rate=0.003) for s in (0, 2)]
    others.append(subject.cell(num_tasks=2**12, seed=1))
    alone, packed = (
        train(subject.trainer(cell)),
        train(subject.trainer(*others[:1], cell, *others[1:])),
    )
    place = packed.cells.index(cell)
    rows = [
        [{k: v for k, v in row.items() if k != "step"} for row in h]
        for h in (alone.history[0], packed.history[place])
    ]
    if to_rounding:
        losses = [torch.tensor([row["loss"] for row in of_cell]) for of_cell in rows]
        equal = same(losses[0], losses[1], to_rounding=True)
    else:
        weights = same(theta_of(alone, cell), theta_of(packed, cell))
        equal = weights and rows[0] == rows[1]
    require(
        equal,
        "A cell trained beside others isn't the cell trained alone. Nothing may mix replicas or "
        "sequences, and sums must not depend on how many there are: use "
        "metaphase.core.kernels.operations (product, add_rows, layer_norm) for products, keep sums "
        "to the last axis, and no batch statistics.",
    )


def continues_exactly(subject: Subject, to_rounding: bool = False) -> None:
    """Stops half-way, goes on from what was saved, and compares."""
    cell = subject.cell(seed=1)
    whole = train(subject.trainer(cell))
    half = subject.trainer(cell)
    half.advance()
    states = half.states()
    for of_cell, state in zip(half.cells, states, strict=True):
        check_state(of_cell, state)  # which every stored checkpoint has to pass
    rest = train(subject.trainer(cell, states=states))
    require(
        same(theta_of(whole, cell), theta_of(rest, cell), to_rounding),
        "Training that goes on from a checkpoint isn't training that was never stopped. Keep "
        "nothing between steps but the parameters: no counters, caches that change or running "
        "averages.",
    )


def repeats(make: Callable[[], Tensor], sentence: str) -> None:
    """Requires that something is the same when it is made again, whatever PyTorch's, NumPy's and
    Python's generators are at."""
    first = make()
    with seeded(12345):
        again = make()
    require(same(first, again), sentence)
