"""LSTM layers whose state is enlarged by a fast-weight memory, replica-stacked.

After Schlag, Munkhdalai and Schmidhuber 2021 ("Learning associative inference using fast weight
memory"): an LSTM makes keys, values and write strengths, the memory is a sum of their outer
products, and what it answers to the LSTM's query is added to the LSTM's output. Ours writes by
addition, has several heads that forget by gates (Ba et al. 2016: at a fixed rate), and adds both
parts to a residual stream, so that keys and values see the token beside the hidden state: the plain
stack stays at chance on tasks that this one learns in context. It stands for the paper's LSTM with
outer-product state (Kirsch et al. 2022), whose state, too, grows as the square of its size.
"""

from __future__ import annotations

import math

from torch import Tensor

from metaphase.core.architectures import lstm
from metaphase.core.architectures import outer_product_memory as memory
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels.operations import layer_norm


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start N(0, 1/fan-in), the memory's output divided by sqrt(2 num_layers) more as in
    `core.architectures.transformer`; biases at 0."""
    specs: dict[str, Spec] = {}
    for i in range(cell.num_layers):
        specs |= lstm.layer_parameters(i, cell.model_size)
        specs |= memory.parameters(i, cell, math.sqrt(2 * cell.num_layers))
    return specs


def apply(p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    for i in range(cell.num_layers):
        normed_RxBxLxD = layer_norm(h_RxBxLxD)
        h_RxBxLxD = h_RxBxLxD + lstm.layer(p, i, normed_RxBxLxD)
        h_RxBxLxD = memory.block(p, i, h_RxBxLxD, cell, stride if i == cell.num_layers - 1 else 1)
    return h_RxBxLxD


def state_size(cell: Cell) -> int:
    """layers x (hidden state + cell state + heads x key size x value size + the token before):
    num_layers (3 model_size + num_heads key_size^2), however long the sequence."""
    return lstm.state_size(cell) + cell.num_layers * memory.state_size(cell)


def forward_flops(cell: Cell) -> int:
    """Operations of all layers for a batch; the last one's memory is asked T times only."""
    queries = [cell.num_tokens] * (cell.num_layers - 1) + [cell.sequence_length]
    of_memory = sum(memory.forward_flops(cell, count) for count in queries)
    return lstm.forward_flops(cell) + cell.batch_size * of_memory


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: the LSTM's, the memory's, and two of width D a layer."""
    more = cell.num_tokens * 2 * cell.model_size
    return lstm.activations(cell) + cell.num_layers * (memory.activations(cell) + more)
