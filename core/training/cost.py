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


def reads_table(cells: Sequence[Cell]) -> bool:
    """Whether some projections of a pack are read from a table on a GPU, instead of being drawn."""
    return _table(cells, "cuda")[0] > 0


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

    Checked against what is counted on tensors without numbers (`tests.benchmarks.bytes`), of plain
    PyTorch: at most 5% too low there and 55% too high, whatever the shape and precision.

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
    kept = 4 * P * (4 * replicas + 1)  # weights, gradients, moments; rates' factors, which are one
    if device == "cpu":  # where attention keeps its scores
        numbers += cell.num_layers * cell.num_heads * cell.num_tokens**2
        activations = 4 * B * numbers
        # First autograd's gradients stand beside the activations, then Adam's intermediates alone.
        return kept, replicas * max(activations + logits + 4 * P, 3 * 4 * P)
    if cell.position_encoding == "rotary":  # queries and keys, turned and not
        numbers += 2 * cell.num_layers * cell.num_tokens * cell.num_heads * cell.key_size
    activations = round(_BESIDE * _number_bytes(cell) * B * numbers)
    # Plain Adam's intermediates, among them the booleans of its test of numbers, are 3.75 numbers a
    # weight. While a step is captured, copies of weights and moments stand beside it.
    working = max(activations + logits + 4 * P, 15 * P) + 3 * 4 * P
    return kept, replicas * working


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
_PROGRAMS, _TILE = 128, 64  # of a narrow block's backward pass, at most; tokens of an MLP's tile


def bytes_per_step(cell: Cell, kernels: bool = True) -> float:
    """Device memory traffic of one step of one replica on a GPU: each operation reads its operands
    and writes its result. Counted for Transformers, MLPs by themselves and LSTMs, where it is
    within 15% of `tests.benchmarks.bytes`; other architectures are taken to move as much for a
    number that their backward pass needs.

    Args:
        kernels: whether layers and Adam run our own kernels where these serve the cell's shapes, as
            on GPUs on which they have been found right and faster; else all is plain PyTorch.
    """
    B, T, L, D = cell.batch_size, cell.sequence_length, cell.num_tokens, cell.model_size
    number = _number_bytes(cell)
    layers = cell.num_layers * _layer_bytes(cell, kernels)
    # Before and after the layers: embeddings and positions, the last norm, logits and their loss.
    context = ARCHITECTURES[cell.architecture].has_context
    ends = L * D * (8 * number + 60 if context else 80 - 10 * number)
    ends += T * 2 * (2 if cell.precision == "bf16" else 4) * cell.input_size
    ends += T * cell.problem.target.outputs * (6 * number + 40)
    # Adam's operations, one by one, and its test of numbers; or all at once, and casts beside.
    optimizer = (50 if kernels else 170) * num_parameters(cell)
    return float(B * (layers + ends) + optimizer)


def _layer_bytes(cell: Cell, kernels: bool) -> float:
    """What a layer moves of a sequence."""
    number, stream = _number_bytes(cell), cell.num_tokens * cell.model_size
    if cell.architecture == "lstm":
        return _lstm_bytes(cell, kernels)
    if cell.architecture not in ("transformer", "mlp"):  # a residual stream, and what is wider
        kept = ARCHITECTURES[cell.architecture].layers.activations(cell) / cell.num_layers
        casts = 36 * (cell.precision == "bf16")
        return 6.5 * number * max(0.0, kept - 4 * stream) + stream * (14 * number + 80 + casts)
    attends = cell.architecture == "transformer"
    kernels = kernels and cell.precision != "fp32"
    mixes = cell.num_tokens <= _LONGEST and cell.key_size <= _WIDEST_KEY  # at all tokens
    narrow = cell.model_size <= _NARROW
    on_chip = narrow and (not attends or _attention_on_chip(cell))
    if kernels and (on_chip or (narrow and attends and not mixes)):
        moved = _narrow_bytes(cell, 2 * cell.model_size * cell.mlp_units, tiles=True)
    else:
        moved = _wide_mlp_bytes(cell) if kernels else _plain_mlp_bytes(cell)
    if attends and kernels and on_chip:
        HK = cell.num_heads * cell.key_size
        moved += _narrow_bytes(cell, 4 * cell.model_size * HK, tiles=False)
    elif attends:
        moved += _wide_attention_bytes(cell) if kernels and mixes else _plain_attention_bytes(cell)
    return moved


def _attention_on_chip(cell: Cell) -> bool:
    """Whether a narrow model's attention has a kernel that keeps a sequence on the chip, of a GPU
    with much shared memory (`core.kernels.cuda.attention.supports`)."""
    if cell.num_tokens > _LONGEST or cell.key_size > _NARROW:
        return False
    short, width = cell.num_tokens <= _LONGEST // 2, max(cell.model_size, cell.key_size)
    return cell.precision == "bf16" or short or width <= _NARROW // 2


def _plain_mlp_bytes(cell: Cell) -> float:
    """A residual stream with its norm, float32, and hidden units in the precision of products,
    which are written and read 14 times, with their gradients."""
    return cell.num_tokens * (70 * cell.model_size + 14.5 * _number_bytes(cell) * cell.mlp_units)


def _plain_attention_bytes(cell: Cell) -> float:
    """As `_plain_mlp_bytes`; of queries, keys and values, and of each head's sums. Positions turn
    queries and keys by operations of their own."""
    H, half = cell.num_heads, cell.precision == "bf16"
    stream = (72 + 9 * half) * cell.model_size
    wide = (71.5 if cell.position_encoding == "rotary" else 29.5) * H * cell.key_size
    return cell.num_tokens * (stream + wide * _number_bytes(cell) + 70 * H)


def _narrow_bytes(cell: Cell, weights: int, tiles: bool) -> float:
    """A block on the chip moves five times its residual stream, and the sums of its weights'
    gradients, which programs write: those of some tiles of tokens, or of some sequences."""
    parts = -(-cell.batch_size * cell.num_tokens // _TILE) if tiles else cell.batch_size
    programs = min(_PROGRAMS, parts) / cell.batch_size  # a sequence
    return 5 * 4 * cell.num_tokens * cell.model_size + 2 * 4 * programs * weights


def _wide_mlp_bytes(cell: Cell) -> float:
    """The operands of products, thrice, with norms and ReLU between them
    (`core.kernels.cuda.layers`)."""
    return cell.num_tokens * (_wide_block(cell) + 11 * _number_bytes(cell) * cell.mlp_units)


def _wide_attention_bytes(cell: Cell) -> float:
    """As `_wide_mlp_bytes`, with mixing in place of ReLU."""
    HK = cell.num_heads * cell.key_size
    return cell.num_tokens * (_wide_block(cell) + 23 * _number_bytes(cell) * HK)


def _wide_block(cell: Cell) -> int:
    """Of a token a norm, and the sides of products that have the model's width."""
    half = cell.precision == "bf16"
    return cell.model_size * (_number_bytes(cell) * (10 + half) + 4 * 4)


def _lstm_bytes(cell: Cell, kernels: bool) -> float:
    """What an LSTM layer moves of a sequence, float32: this many times its width a token; and its
    recurrent weights, which all sequences read together, at each time forward and backward."""
    D, whole = cell.model_size, cell.model_size <= _WHOLE_SCAN and cell.precision != "fp32"
    numbers = (54 if whole else 76) - 4 * (cell.precision == "bf16") if kernels else 202
    return 4.0 * cell.num_tokens * D * (numbers + 8 * D / cell.batch_size)
