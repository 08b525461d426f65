"""A stack of LSTM layers (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000; the
equations of torch.nn.LSTM), replica-stacked.

`scan` runs one layer over time. Its backward pass is our own: a step is then a dozen small
operations instead of the fifty that autograd records, and all steps' weight gradients are one
product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.config import Cell
from core.parameters import Spec

# Added to the forget gates' biases, so that layers remember when training starts (Jozefowicz,
# Zaremba and Sutskever 2015, section 5).
FORGET_BIAS = 1.0


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start N(0, 1/fan-in), biases at 0."""
    specs: dict[str, Spec] = {}
    for i in range(cell.num_layers):
        specs |= layer_parameters(i, cell.model_size)
    return specs


def layer_parameters(i: int, D: int) -> dict[str, Spec]:
    """Of layer i, width D. The columns are those of the input, forget and output gates and of the
    cell's new content, D each."""
    return {
        f"{i}.input": Spec((D, 4 * D), D**-0.5),
        f"{i}.hidden": Spec((D, 4 * D), D**-0.5),
        f"{i}.bias": Spec((1, 4 * D), 0.0),
    }


def apply(p: dict[str, Tensor], h_RxBxSxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    h_RxSxBxD = h_RxBxSxD.transpose(1, 2)
    for i in range(cell.num_layers):
        h_RxSxBxD = layer(p, i, h_RxSxBxD)
    return h_RxSxBxD[:, ::stride].transpose(1, 2)


def layer(p: dict[str, Tensor], i: int, x_RxSxBxD: Tensor) -> Tensor:
    """Hidden states h_RxSxBxD of layer i for its inputs at all times.

    Gates are sigmoid(a) = (1 + tanh(a / 2)) / 2, so that one tanh makes all four, and because
    PyTorch's vectorized sigmoid gives other bits at the end of a tensor than in its middle.
    """
    R, S, B, D = x_RxSxBxD.shape
    halves = torch.full((4 * D,), 0.5, device=x_RxSxBxD.device, dtype=p[f"{i}.bias"].dtype)
    halves[3 * D :] = 1.0
    start = torch.zeros_like(halves)
    start[D : 2 * D] = FORGET_BIAS
    a_RxNx4D = torch.baddbmm(
        (p[f"{i}.bias"] + start) * halves,
        x_RxSxBxD.reshape(R, S * B, D),
        p[f"{i}.input"] * halves,
    )
    return scan(a_RxNx4D.view(R, S, B, 4 * D), p[f"{i}.hidden"] * halves)


def scan(a_RxSxBx4D: Tensor, w_RxDx4D: Tensor) -> Tensor:
    """h_RxSxBxD of an LSTM layer that starts at h = c = 0.

    Args:
        a: what the input adds before the activations (i, f, o halved, then the content g).
        w: recurrent weights, columns in the same order and halved too.
    """
    wide = torch.promote_types(a_RxSxBx4D.dtype, torch.float32)  # states are sums: not in bf16
    with torch.autocast(a_RxSxBx4D.device.type, enabled=False):
        return _Scan.apply(a_RxSxBx4D.to(wide), w_RxDx4D.to(wide))


class _Scan(torch.autograd.Function):
    """Time is a Python loop over operations on R x B x ...

    Products and sums are separate operations: a fused one rounds once or twice, depending on where
    in a tensor it is, so that a replica's bits would depend on its pack.
    """

    @staticmethod
    def forward(ctx, a_RxSxBx4D: Tensor, w_RxDx4D: Tensor) -> Tensor:
        R, S, B, D = *a_RxSxBx4D.shape[:3], w_RxDx4D.shape[1]
        h = c = a_RxSxBx4D.new_zeros(R, B, D)
        kept: list[list[Tensor]] = [[], [], [], []]  # h, c, gates and tanh(c), by time
        for s in range(S):
            gate = torch.bmm(h, w_RxDx4D).add_(a_RxSxBx4D[:, s]).tanh_()
            gate[..., : 3 * D].add_(1.0).mul_(0.5)
            i, f, o, g = gate.split(D, dim=-1)
            c = (i * g).add_(f * c)
            tanh = torch.tanh(c)
            h = o * tanh
            for times, t in zip(kept, (h, c, gate, tanh), strict=True):
                times.append(t)
        h_RxSxBxD = torch.stack(kept[0], dim=1)
        ctx.save_for_backward(w_RxDx4D, h_RxSxBxD, *kept[1], *kept[2], *kept[3])
        return h_RxSxBxD

    @staticmethod
    def backward(ctx, grad_RxSxBxD: Tensor):
        w_RxDx4D, h_RxSxBxD, *kept = ctx.saved_tensors
        R, S, B, D = h_RxSxBxD.shape
        cs, gates, tanhs = kept[:S], kept[S : 2 * S], kept[2 * S :]
        w_Rx4DxD = w_RxDx4D.transpose(1, 2)
        grad_h = grad_c = torch.zeros_like(cs[0])
        grad_a_RxSxBx4D = grad_RxSxBxD.new_empty(R, S, B, 4 * D)
        for s in reversed(range(S)):
            i, f, o, g = gates[s].split(D, dim=-1)
            slope = gates[s] * gates[s]  # of a gate in its halved argument: 2 s (1 - s)
            slope[..., : 3 * D].neg_().add_(gates[s][..., : 3 * D]).mul_(2.0)
            slope[..., 3 * D :].neg_().add_(1.0)
            grad_h = grad_h + grad_RxSxBxD[:, s]
            grad_c = (tanhs[s] * tanhs[s]).neg_().add_(1.0).mul_(o).mul_(grad_h).add_(grad_c)
            grad = torch.empty_like(slope)
            torch.mul(grad_c, g, out=grad[..., :D])
            if s:
                torch.mul(grad_c, cs[s - 1], out=grad[..., D : 2 * D])
            else:
                grad[..., D : 2 * D] = 0.0
            torch.mul(grad_h, tanhs[s], out=grad[..., 2 * D : 3 * D])
            torch.mul(grad_c, i, out=grad[..., 3 * D :])
            grad.mul_(slope)
            grad_a_RxSxBx4D[:, s] = grad
            if s:
                grad_h = torch.bmm(grad, w_Rx4DxD)
                grad_c = grad_c * f
        before_RxNxD = h_RxSxBxD[:, :-1].reshape(R, -1, D)
        grad_w = torch.bmm(
            before_RxNxD.transpose(1, 2), grad_a_RxSxBx4D[:, 1:].reshape(R, -1, 4 * D)
        )
        return grad_a_RxSxBx4D, grad_w


def state_size(cell: Cell) -> int:
    """layers x (hidden state + cell state) = 2 num_layers model_size, however long the sequence."""
    return 2 * cell.num_layers * cell.model_size


def forward_flops(cell: Cell) -> int:
    """Operations of all layers for a batch."""
    return cell.batch_size * cell.num_tokens * cell.num_layers * layer_flops(cell.model_size)


def layer_flops(D: int) -> int:
    """Of one layer at one time: the products with the input and with the hidden state."""
    return 2 * 2 * D * 4 * D


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: by layer and time four gates before and after, three states and
    what goes in."""
    return cell.num_layers * cell.num_tokens * layer_activations(cell.model_size)


def layer_activations(D: int) -> int:
    """Of one layer at one time."""
    return (4 + 4 + 3 + 1) * D
