"""What training a cell costs, from its shapes: for planning, never for results."""

from __future__ import annotations

from collections.abc import Sequence

from core import model
from core.architectures import ARCHITECTURES
from core.config import Cell, stack_key, stream_key
from core.tasks import table_length

__all__ = ["bytes_per_step", "flops_per_step", "num_parameters", "pack_bytes"]
num_parameters = model.num_parameters

# Memory for the table of seen tasks' projections, bytes. Past the caches a table is still far
# cheaper than drawing: four bytes are read in less time than a normal is computed.
TABLE_BYTES = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}


def flops_per_step(cell: Cell) -> float:
    """Floating-point operations of one training step of one replica, multiply and add counted as
    two; the backward pass costs twice the forward one (Kaplan et al. 2020, section 2.1)."""
    B, T, X, D = cell.batch_size, cell.sequence_length, cell.input_size, cell.model_size
    architecture = ARCHITECTURES[cell.architecture]
    labels_and_head = 2 * B * T * (1 + architecture.has_context) * cell.num_classes * D
    embed = 2 * B * T * X * D
    layers = architecture.forward_flops(cell)
    return float(3 * (labels_and_head + layers) + 2 * embed + input_flops(cell))


def input_flops(cell: Cell) -> float:
    """Of these, the products A x, which have no gradient and which cells that see the same
    sequences share."""
    return 2.0 * cell.batch_size * cell.sequence_length * cell.input_size**2


def drawn_normals(cell: Cell) -> float:
    """Normals drawn a step for the projections A, of cells that see the same sequences: 0 where
    they are read from a table. As if on a CPU, whose table is the smallest."""
    matrix = 4 * cell.input_size**2
    drawn = cell.num_tasks * matrix > TABLE_BYTES["cpu"]
    return float(drawn * cell.batch_size * cell.input_size**2)


def pack_bytes(cells: Sequence[Cell], device: str) -> int:
    """Device memory that training a pack takes, bytes: weights, gradients and Adam's moments of
    all stacks; what the backward pass needs of the largest; the sequences' inputs and the tasks'
    projections.

    Args:
        device: "cpu" or "cuda".
    """
    stacks: dict[tuple, list[Cell]] = {}
    for cell in cells:
        stacks.setdefault(stack_key(cell), []).append(cell)
    kept, working = zip(*(_stack_bytes(stack) for stack in stacks.values()), strict=True)
    cell, streams = cells[0], len({stream_key(cell) for cell in cells})
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    # Where there is no kernel for them (core.inputs), and the table's entries beside it.
    projections = max(B * X**2, 2**22) if device == "cpu" else 0
    copied = 0 if len(cells) == streams * len(stacks) else max(map(len, stacks.values()))
    inputs = 4 * (B * T * X * (streams + copied) + projections)
    matrix, seeds = 4 * X**2, len({cell.seed for cell in cells})
    length = table_length({c.num_tasks for c in cells}, seeds, TABLE_BYTES[device] // matrix)
    return sum(kept) + max(working) + inputs + seeds * length * matrix


def _stack_bytes(cells: Sequence[Cell]) -> tuple[int, int]:
    """Of a stacked model: what is kept, and what a step takes besides and gives back."""
    cell, replicas = cells[0], len(cells)
    B, T, P = cell.batch_size, cell.sequence_length, num_parameters(cell)
    activations = 4 * B * ARCHITECTURES[cell.architecture].activations(cell)
    logits = 4 * 4 * B * T * cell.num_classes
    # autograd's gradients beside the activations; then Adam's intermediates
    return replicas * 4 * 4 * P, replicas * max(activations + logits + 4 * P, 3 * 4 * P)


def bytes_per_step(cell: Cell) -> float:
    """Device memory traffic of one step of one replica if whatever the backward pass needs is
    written and read once, and so its gradient; Adam's eight passes over the weights; the inputs.

    A block that recomputes instead of keeping moves fewer.
    """
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    number = 2 if cell.precision == "bf16" else 4
    activations = 4 * number * B * ARCHITECTURES[cell.architecture].activations(cell)
    return float(8 * 4 * num_parameters(cell) + activations + 2 * 4 * B * T * X)
