"""What training a cell costs, computed from its shapes: for planning, never for results."""

from __future__ import annotations

from collections.abc import Sequence

from metaphase.core import schema
from metaphase.core.architectures import ARCHITECTURES, model
from metaphase.core.cell import Cell, grouped, stack_key, stream_key
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.core.tasks.projected_inputs import TABLE_BYTES, table_length
from metaphase.core.tasks.sequences import STEPS_PER_DRAW

num_parameters = model.num_parameters


def flops_per_step(cell: Cell) -> float:
    """Floating-point operations of one training step of one replica, multiply and add counted as
    two; the backward pass costs twice the forward one (Kaplan et al. 2020, section 2.1)."""
    B, T, X, D = cell.batch_size, cell.sequence_length, cell.input_size, cell.model_size
    architecture = ARCHITECTURES[cell.architecture]
    labels_and_head = 2 * B * T * (1 + architecture.has_context) * cell.problem.target.outputs * D
    embed = 2 * B * T * X * D
    layers = architecture.layers.forward_flops(cell)
    return float(3 * (labels_and_head + layers) + 2 * embed + input_flops(cell))


def input_flops(cell: Cell) -> float:
    """The part of `flops_per_step` that is the products A x. They have no gradient, and cells that
    see the same sequences share them."""
    if not TASK_FAMILIES[cell.task_family].projects:
        return 0.0
    return 2.0 * cell.batch_size * cell.sequence_length * cell.input_size**2


def normals_per_step(cells: Sequence[Cell], device: str) -> float:
    """Normals that a step draws for the projections of a pack's sequences, or for the inputs of a
    family that has none. The streams whose tasks are in the pack's table need none."""
    cell, length = cells[0], _table(cells, device)[0]
    if not TASK_FAMILIES[cell.task_family].projects:
        return float(cell.batch_size * cell.sequence_length * cell.input_size * len(cells))
    drawn = sum(stream[0].num_tasks > length for stream in grouped(cells, stream_key).values())
    return float(drawn * cell.batch_size * cell.input_size**2)


def _table(cells: Sequence[Cell], device: str) -> tuple[int, int]:
    """Size of the table of a pack's projections: tasks of each seed, and bytes."""
    if not TASK_FAMILIES[cells[0].task_family].projects:
        return 0, 0
    cell, seeds = cells[0], len({cell.seed for cell in cells})
    number = 2 if device == "cuda" and cell.precision == "bf16" else 4
    matrix = number * cell.input_size**2
    length = table_length({c.num_tasks for c in cells}, seeds, TABLE_BYTES[device] // matrix)
    return length, seeds * length * matrix


def pack_bytes(cells: Sequence[Cell], device: str) -> int:
    """Device memory that training a pack takes, bytes: weights, gradients and Adam's moments of
    all stacks; what the backward pass needs of the largest; the sequences drawn, their inputs and
    the tasks' projections.

    Args:
        device: "cpu" or "cuda".
    """
    stacks = list(grouped(cells, stack_key).values())
    kept, working = zip(*(_stack_bytes(stack, device) for stack in stacks), strict=True)
    cell, streams = cells[0], len({stream_key(cell) for cell in cells})
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    # Tensors of 64-bit numbers, as seen by peak memory: images and labels of each stream while
    # they are drawn, and of each seed the words that images are drawn from.
    # Bursty streams draw images of their own.
    bursty = any(cell.burstiness for cell in cells)
    drawers = streams if bursty else len({cell.seed for cell in cells})
    drawn = 8 * STEPS_PER_DRAW * B * T * (5 * streams + 8 * drawers)
    # These exist where there is no kernel for the inputs (core.tasks.projected_inputs).
    projects = TASK_FAMILIES[cell.task_family].projects
    projections = 4 * max(B * X**2, 2**22) if device == "cpu" and projects else 0
    copied = 0 if len(cells) == streams * len(stacks) else max(map(len, stacks))
    inputs = 4 * B * T * X * (streams + copied)
    # What models and predictors say of all evaluation sequences, where there are predictors, about
    # six of them; in float32, and a replica's in float64 while distances are computed.
    known = 4 * (len(cells) + 6 * streams + 2 * 2 * 6) if TASK_FAMILIES[cell.task_family].own else 0
    said = known * len(schema.SPLITS) * cell.eval_sequences * T * cell.problem.target.outputs
    everything = sum(kept) + max(working) + drawn + projections + inputs + said
    return everything + _table(cells, device)[1]


def _stack_bytes(cells: Sequence[Cell], device: str) -> tuple[int, int]:
    """Memory of a stacked model, bytes: what is kept, and what a step takes besides and frees."""
    cell, replicas = cells[0], len(cells)
    B, T, P = cell.batch_size, cell.sequence_length, num_parameters(cell)
    numbers = ARCHITECTURES[cell.architecture].layers.activations(cell)
    if device == "cpu":  # where attention keeps its scores
        numbers += cell.num_layers * cell.num_heads * cell.num_tokens**2
    activations = 4 * B * numbers
    logits = 4 * 4 * B * T * cell.problem.target.outputs
    # First autograd's gradients stand beside the activations, then Adam's intermediates alone.
    return replicas * 4 * 4 * P, replicas * max(activations + logits + 4 * P, 3 * 4 * P)


def bytes_per_step(cell: Cell) -> float:
    """Device memory traffic of one step of one replica if whatever the backward pass needs is
    written and read once, and so its gradient; Adam's eight passes over the weights; the inputs.

    A block that recomputes what others keep moves fewer bytes.
    """
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    number = 2 if cell.precision == "bf16" else 4
    activations = 4 * number * B * ARCHITECTURES[cell.architecture].layers.activations(cell)
    return float(8 * 4 * num_parameters(cell) + activations + 2 * 4 * B * T * X)
