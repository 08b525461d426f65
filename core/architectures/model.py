"""From labelled examples to predictions: token embedding, sequence model, output head.

Token formats (T examples in, T predictions out, the j-th from x_1, y_1 ... x_(j-1), y_(j-1), x_j):

- `shifted`, the paper's (Kirsch et al. 2022, section 3): token j holds x_j and the label y_(j-1).
- `interleaved`: a query token x_j without a label, then an example token x_j with y_j; predictions
  are read at the queries. Twice the tokens, but a label stands beside its input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels.operations import layer_norm, product


def parameters(cell: Cell) -> dict[str, Spec]:
    """Specs of all parameters of a cell's model.

    Labels enter with the same variance per unit as inputs. The head starts at 0, so the first
    predictions are uniform.
    """
    D, architecture = cell.model_size, ARCHITECTURES[cell.architecture]
    labels = {"embed_y": Spec((cell.num_classes, D), 1.0)} if architecture.has_context else {}
    return {
        "embed_x": Spec((cell.input_size, D), cell.input_size**-0.5),
        **labels,
        **architecture.layers.parameters(cell),
        "head": Spec((D, cell.num_classes), 0.0, D),
    }


def num_parameters(cell: Cell) -> int:
    """Trained scalars of a cell's model."""
    return sum(spec.size for spec in parameters(cell).values())


def predict(p: dict[str, Tensor], x_RxBxTxX: Tensor, y_RxBxT: Tensor, cell: Cell) -> Tensor:
    """logits_RxBxTxC; those at position t depend on x up to t and y before t."""
    R, B, T, X = x_RxBxTxX.shape
    D, C, architecture = cell.model_size, cell.num_classes, ARCHITECTURES[cell.architecture]
    x = product(x_RxBxTxX.reshape(R, B * T, X), p["embed_x"]).view(R, B, T, D)
    tokens, stride = _tokens(p, x, y_RxBxT, cell) if architecture.has_context else (x, 1)
    h_RxBxTxD = architecture.layers.apply(p, tokens, cell, stride)
    h_RxNxD = layer_norm(h_RxBxTxD).view(R, B * T, D)
    return product(h_RxNxD, p["head"]).view(R, B, T, C)


def _tokens(p: dict[str, Tensor], x: Tensor, y_RxBxT: Tensor, cell: Cell) -> tuple[Tensor, int]:
    """Tokens R x B x S x D from embedded inputs R x B x T x D, and the distance of those at which
    predictions are read."""
    R, B, T, D = x.shape
    C = cell.num_classes
    onehot_RxBxTxC = (y_RxBxT[..., None] == torch.arange(C, device=x.device)).to(x.dtype)
    y = product(onehot_RxBxTxC.view(R, B * T, C), p["embed_y"]).view(R, B, T, D)
    if cell.token_format == "shifted":
        return x + F.pad(y[:, :, :-1], (0, 0, 1, 0)), 1
    # the last example is never looked back at
    return torch.stack([x, x + y], dim=3).view(R, B, 2 * T, D)[:, :, :-1], 2
