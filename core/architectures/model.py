"""From labelled examples to predictions: token embedding, sequence model, output head.

Token formats (T examples in, T predictions out, the j-th from x_1, y_1 ... x_(j-1), y_(j-1), x_j):

- `shifted`, the paper's (Kirsch et al. 2022, section 3): token j holds x_j and the label y_(j-1).
- `interleaved`: a query token x_j without a label, then an example token x_j with y_j; predictions
  are read at the queries. Twice the tokens, but a label stands beside its input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.architectures.blocks import read_out
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels.operations import product
from metaphase.core.tasks import Classes
from metaphase.core.tasks.targets import embeddable


def parameters(cell: Cell) -> dict[str, Spec]:
    """Specs of all parameters of a cell's model.

    Labels enter with the same variance per unit as inputs. The head starts at 0, so the first
    predictions are uniform.
    """
    D, architecture = cell.model_size, ARCHITECTURES[cell.architecture]
    X, target = cell.problem.features, cell.problem.target
    specs: dict[str, Spec] = {}
    if X:
        specs["embed_x"] = Spec((X, D), X**-0.5)
    if architecture.has_context:
        variance = 1.0 if isinstance(target, Classes) else target.count * target.variance
        specs["embed_y"] = Spec((target.outputs, D), variance**-0.5)
        if cell.problem.start_token and cell.token_format == "shifted":
            specs["start"] = Spec((1, D), 1.0)
    return {
        **specs,
        **architecture.layers.parameters(cell),
        "head": Spec((D, target.outputs), 0.0, D),
    }


def num_parameters(cell: Cell) -> int:
    """Trained scalars of a cell's model."""
    return sum(spec.size for spec in parameters(cell).values())


def tokens_fed(cell: Cell) -> int:
    """L: tokens that the layers are given; nothing comes after the last query."""
    if not ARCHITECTURES[cell.architecture].has_context:
        return cell.sequence_length
    return cell.num_tokens - (cell.token_format == "interleaved")


def predict(
    p: dict[str, Tensor],
    x_RxBxTxX: Tensor,
    y_RxBxT: Tensor,
    cell: Cell,
    look: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """outputs_RxBxTxN, logits of classes or estimates of real numbers; those at position t depend
    on x up to t and y before t. `look` gets what enters the layers: the tokens h_RxBxLxD and their
    stride."""
    R, B, T, X = x_RxBxTxX.shape
    D, N, architecture = (
        cell.model_size,
        cell.problem.target.outputs,
        ARCHITECTURES[cell.architecture],
    )
    if X:
        x_RxBTxD = product(x_RxBxTxX.reshape(R, B * T, X), p["embed_x"])
    else:
        x_RxBTxD = x_RxBxTxX.new_zeros(R, B * T, D)
    h_RxBxLxD, stride = x_RxBTxD.view(R, B, T, D), 1
    if architecture.has_context:
        h_RxBxLxD, stride = _tokens(p, h_RxBxLxD, y_RxBxT, cell)
    if look is not None:
        look(h_RxBxLxD, stride)
    h_RxBxTxD = architecture.layers.apply(p, h_RxBxLxD, cell, stride)
    return read_out(h_RxBxTxD.reshape(R, B * T, D), p["head"]).view(R, B, T, N)


def _tokens(
    p: dict[str, Tensor], x_RxBxTxD: Tensor, y_RxBxT: Tensor, cell: Cell
) -> tuple[Tensor, int]:
    """Tokens h_RxBxLxD from embedded inputs, and the distance between the tokens at which
    predictions are read."""
    R, B, T, D = x_RxBxTxD.shape
    numbers_RxBTxN = embeddable(cell.problem.target, y_RxBxT, x_RxBxTxD.dtype).flatten(1, 2)
    y_RxBxTxD = product(numbers_RxBTxN, p["embed_y"]).view(R, B, T, D)
    if cell.token_format == "shifted":
        before_RxBxTxD = F.pad(y_RxBxTxD[:, :, :-1], (0, 0, 1, 0))
        if "start" in p:  # by a product, whose gradient's bits are fixed
            start_RxBxD = product(y_RxBxTxD.new_ones(R, B, 1), p["start"])
            before_RxBxTxD = torch.cat([start_RxBxD[:, :, None], y_RxBxTxD[:, :, :-1]], dim=2)
        return x_RxBxTxD + before_RxBxTxD, 1
    pair_RxBxTx2xD = torch.stack([x_RxBxTxD, x_RxBxTxD + y_RxBxTxD], dim=3)
    return pair_RxBxTx2xD.view(R, B, 2 * T, D)[:, :, :-1], 2  # nothing comes after the last example
