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
    the tasks' projections. On a GPU an evaluation stands beside a step, which keeps its memory.

    Checked against what is counted on tensors without numbers (`tests.benchmarks.bytes`): at most
    5% too low there and 40% too high, whatever the width and precision.

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
    evaluation = 0
    if device != "cpu":
        # Of a stack's forward pass what a block needs at a time; the inputs again; and what is
        # measured of every sequence and split, with its standard errors in float64.
        evaluation = max(map(_forward_bytes, stacks)) + inputs
        evaluation += 24 * len(cells) * len(cell.splits) * cell.eval_sequences * T
    # What models and predictors say of all evaluation sequences, where there are predictors, about
    # six of them; in float32, and a replica's in float64 while distances are computed.
    known = 4 * (len(cells) + 6 * streams + 2 * 2 * 6) if TASK_FAMILIES[cell.task_family].own else 0
    evaluation += known * len(schema.SPLITS) * cell.eval_sequences * T * cell.problem.target.outputs
    table = _table(cells, device)[1]
    return sum(kept) + max(working) + drawn + projections + inputs + evaluation + table


def _stack_bytes(cells: Sequence[Cell], device: str) -> tuple[int, int]:
    """Memory of a stacked model, bytes: what is kept, and what a step takes besides and frees."""
    cell, replicas = cells[0], len(cells)
    B, T, P = cell.batch_size, cell.sequence_length, num_parameters(cell)
    numbers = ARCHITECTURES[cell.architecture].layers.activations(cell)
    logits = 4 * 4 * B * T * cell.problem.target.outputs
    if device == "cpu":  # where attention keeps its scores
        numbers += cell.num_layers * cell.num_heads * cell.num_tokens**2
        activations = 4 * B * numbers
        # First autograd's gradients stand beside the activations, then Adam's intermediates alone.
        return replicas * 4 * 4 * P, replicas * max(activations + logits + 4 * P, 3 * 4 * P)
    activations = round(_BESIDE * _number_bytes(cell) * B * numbers)
    # While a step is captured, copies of weights and moments stand beside it.
    working = max(activations + logits + 4 * P, 3 * 4 * P) + 3 * 4 * P
    return replicas * 4 * 4 * P, replicas * working


_BESIDE = 1.2  # activations with what stands beside them in the middle of a backward pass


def _number_bytes(cell: Cell) -> int:
    """Bytes of a number that the backward pass needs, on a GPU."""
    scans = cell.architecture == "lstm"  # whose states and gates are float32
    return 2 if cell.precision == "bf16" and not scans else 4


def _forward_bytes(cells: Sequence[Cell]) -> int:
    """What a stack's forward pass takes on a GPU at a time, nothing being kept of it, bytes."""
    cell = cells[0]
    B, T, L = cell.batch_size, cell.sequence_length, cell.num_tokens
    numbers = ARCHITECTURES[cell.architecture].layers.activations(cell) / cell.num_layers
    logits = 4 * 4 * B * T * cell.problem.target.outputs
    block = _BESIDE * _number_bytes(cell) * B * numbers + 8 * B * L * cell.model_size
    return len(cells) * (round(block) + logits)


_WHOLE_SCAN = 256  # widths of LSTM layers that scan over time in one kernel
_LONGEST, _WIDEST_KEY, _NARROW = 128, 64, 64  # of `core.kernels.cuda`


def bytes_per_step(cell: Cell, kernels: bool = True) -> float:
    """Device memory traffic of one step of one replica on a GPU: each operation reads its operands
    and writes its result. Counted by hand for a Transformer, and for MLPs by themselves on our
    kernels, where it is within 15% of `tests.benchmarks.bytes`; other architectures are taken to
    move as much for a number that their backward pass needs.

    Args:
        kernels: whether layers and Adam run our own kernels where these serve the cell's shapes, as
            on GPUs on which they have been found right and faster; else all is plain PyTorch.
    """
    B, T, L, D = cell.batch_size, cell.sequence_length, cell.num_tokens, cell.model_size
    number = _number_bytes(cell)
    fused = _fused_bytes(cell) if kernels else None
    layers = cell.num_layers * (_plain_bytes(cell) if fused is None else fused)
    # Before and after the layers: embeddings and positions, the last norm, logits and their loss.
    context = ARCHITECTURES[cell.architecture].has_context
    ends = L * D * (8 * number + 60 if context else 80 - 10 * number)
    ends += T * (2 * number * cell.input_size)
    ends += T * cell.problem.target.outputs * (6 * number + 40)
    # Adam's operations, one by one, and its test of numbers; or all at once, and casts beside.
    optimizer = (50 if kernels else 170) * num_parameters(cell)
    return float(B * (layers + ends) + optimizer)


def _plain_bytes(cell: Cell) -> float:
    """What a layer moves of a sequence by plain PyTorch: a residual stream and its norms, float32,
    and their casts in bf16; what is wider, in the precision of the products, is written and read 6
    to 7 times, with its gradient."""
    if cell.architecture == "lstm":
        return _lstm_bytes(cell, 202)
    number, half = _number_bytes(cell), cell.precision == "bf16"
    stream = cell.num_tokens * cell.model_size
    kept = ARCHITECTURES[cell.architecture].layers.activations(cell) / cell.num_layers
    return 6.5 * number * max(0.0, kept - 4 * stream) + stream * (14 * number + 80 + 36 * half)


def _fused_bytes(cell: Cell) -> float | None:
    """What a layer moves of a sequence by our kernels: of a narrow model five times its residual
    stream, for each block, and the sums of its weights' gradients, which programs write; of a wider
    one the operands of products, thrice, with norms, mixing and ReLU between them
    (`core.kernels.cuda.layers`). None: they don't serve the cell."""
    number, half, L, D = (
        _number_bytes(cell), cell.precision == "bf16", cell.num_tokens, cell.model_size,
    )  # fmt: skip
    attends = cell.architecture == "transformer"
    if cell.architecture == "lstm" and cell.precision != "fp32":
        return _lstm_bytes(cell, 54 if D <= _WHOLE_SCAN else 76)
    if cell.architecture not in ("transformer", "mlp") or cell.precision == "fp32":
        return None
    if attends and (cell.token_format != "shifted" or L > _LONGEST or cell.key_size > _WIDEST_KEY):
        return None
    HK, M = cell.num_heads * cell.key_size, cell.mlp_units
    if D <= _NARROW and (half or not attends or D <= _NARROW // 2):
        programs = 128 / cell.batch_size  # a sequence
        own = 2 * D * M + 4 * D * HK * attends
        return (1 + attends) * 5 * 4 * L * D + 2 * 4 * programs * own
    block = number * D * (10 + half) + 4 * 4 * D  # a norm, and the sides of products of width D
    return L * ((1 + attends) * block + number * (11 * M + 23 * HK * attends))


def _lstm_bytes(cell: Cell, numbers: int) -> float:
    """What an LSTM layer moves of a sequence, float32: this many times its width a token; and its
    recurrent weights, which all sequences read together, at each time forward and backward."""
    D = cell.model_size
    return 4.0 * cell.num_tokens * D * (numbers + 8 * D / cell.batch_size)
