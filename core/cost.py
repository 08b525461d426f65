"""What training a cell costs, from its shapes: for planning, never for results."""

from __future__ import annotations

from core import model
from core.architectures import ARCHITECTURES
from core.config import Cell

__all__ = ["bytes_per_step", "flops_per_step", "num_parameters", "replica_bytes"]
num_parameters = model.num_parameters


def flops_per_step(cell: Cell) -> float:
    """Floating-point operations of one training step of one replica, multiply and add counted as
    two; the backward pass costs twice the forward one (Kaplan et al. 2020, section 2.1)."""
    B, T, X, D = cell.batch_size, cell.sequence_length, cell.input_size, cell.model_size
    architecture = ARCHITECTURES[cell.architecture]
    labels_and_head = 2 * B * T * (1 + architecture.has_context) * cell.num_classes * D
    embed = 2 * B * T * X * D
    layers = architecture.forward_flops(cell)
    project = 2 * B * T * X * X  # A x; no gradient
    return float(3 * (labels_and_head + layers) + 2 * embed + project)


def replica_bytes(cell: Cell) -> int:
    """Device memory a replica takes in training, bytes: weights, gradient and Adam's moments, what
    the backward pass needs of every layer, the inputs and the tasks' projections."""
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    state = 5 * 4 * num_parameters(cell)
    inputs = 4 * B * (2 * T * X + X * X)
    activations = 4 * B * ARCHITECTURES[cell.architecture].activations(cell)
    logits = 4 * 4 * B * T * cell.num_classes
    return state + inputs + activations + logits


def bytes_per_step(cell: Cell) -> float:
    """Device memory traffic of one step of one replica if whatever the backward pass needs is
    written and read once, and so its gradient; Adam's eight passes over the weights; the inputs.

    A block that recomputes instead of keeping moves fewer.
    """
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    number = 2 if cell.precision == "bf16" else 4
    activations = 4 * number * B * ARCHITECTURES[cell.architecture].activations(cell)
    return float(8 * 4 * num_parameters(cell) + activations + 2 * 4 * B * T * X)
