"""A stack of LSTM layers (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000; the
equations of torch.nn.LSTM), replica-stacked.

`scan` runs one layer over time: on a CPU, in float32, by a kernel of our own (`core.kernels.cpu`);
on a GPU, where they have been found right and faster (`core.training.proofs`), by kernels that keep
the states of narrow layers on the chip, or are a time's of wide ones (`core.kernels.cuda.lstm`);
elsewhere as `plain_scan`, whose backward pass is our own: a step is then a dozen small operations
instead of the fifty that autograd records, and all steps' weight gradients are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels import cpu
from metaphase.core.kernels.operations import add_rows, product
from metaphase.core.kernels.precision import precision_on_cuda

# Added to the forget gates' biases, so that layers remember when training starts (Jozefowicz,
# Zaremba and Sutskever 2015, section 5).
FORGET_BIAS = 1.0
_COMPARED = 32  # sequences on which kernels are compared with their twin


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start N(0, 1/fan-in), biases at 0."""
    specs: dict[str, Spec] = {}
    for i in range(cell.num_layers):
        specs |= layer_parameters(i, cell.model_size)
    return specs


def layer_parameters(i: int, D: int) -> dict[str, Spec]:
    """The parameters of layer i, of width D. The columns are those of the output, input and forget
    gates and of the cell's new content, D each."""
    return {
        f"{i}.input": Spec((D, 4 * D), D**-0.5, D),
        f"{i}.hidden": Spec((D, 4 * D), D**-0.5, D),
        f"{i}.bias": Spec((1, 4 * D), 0.0),
    }


def apply(p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    for i in range(cell.num_layers):
        h_RxBxLxD = layer(p, i, h_RxBxLxD)
    return h_RxBxLxD[:, :, ::stride]


def layer(p: dict[str, Tensor], i: int, x_RxBxLxD: Tensor) -> Tensor:
    """Hidden states h_RxBxLxD of layer i for its inputs at all times.

    Gates are sigmoid(a) = (1 + tanh(a / 2)) / 2, so that one tanh makes all four, and because
    PyTorch's vectorized sigmoid gives other bits at the end of a tensor than in its middle.
    """
    R, B, L, D = x_RxBxLxD.shape
    halves = torch.full((4 * D,), 0.5, device=x_RxBxLxD.device, dtype=p[f"{i}.bias"].dtype)
    halves[3 * D :] = 1.0
    start = torch.zeros_like(halves)
    start[2 * D : 3 * D] = FORGET_BIAS
    a_RxBLx4D = add_rows(
        product(x_RxBxLxD.reshape(R, B * L, D), p[f"{i}.input"] * halves),
        (p[f"{i}.bias"] + start) * halves,
    )
    return scan(a_RxBLx4D.view(R, B, L, 4 * D), p[f"{i}.hidden"] * halves)


def scan(a_RxBxLx4D: Tensor, w_RxDx4D: Tensor) -> Tensor:
    """h_RxBxLxD of an LSTM layer that starts at h = c = 0, float32 or wider.

    Args:
        a_RxBxLx4D: what the input adds before the activations (o, i, f halved, then the content g).
        w_RxDx4D: recurrent weights, columns in the same order and halved too.
    """
    if cpu.serves(a_RxBxLx4D):
        h_RxBxLxD: Tensor = cpu.LSTM.apply(a_RxBxLx4D, w_RxDx4D)
        return h_RxBxLxD
    fused = _fused_scan(a_RxBxLx4D, w_RxDx4D) if fast_paths.may_fuse(a_RxBxLx4D.device) else None
    return plain_scan(a_RxBxLx4D, w_RxDx4D) if fused is None else fused


def plain_scan(a_RxBxLx4D: Tensor, w_RxDx4D: Tensor) -> Tensor:
    """The definition of `scan`."""
    wide = torch.promote_types(a_RxBxLx4D.dtype, torch.float32)  # states are sums: not in bf16
    with torch.autocast(a_RxBxLx4D.device.type, enabled=False):
        a_Rx4DxLxB = a_RxBxLx4D.to(wide).permute(0, 3, 2, 1).contiguous()
        w_Rx4DxD = w_RxDx4D.to(wide).transpose(1, 2).contiguous()
        h_RxLxDxB: Tensor = _Scan.apply(a_Rx4DxLxB, w_Rx4DxD)
        return h_RxLxDxB.permute(0, 3, 1, 2)


def scan_path(L: int, D: int, precision: str) -> str:
    """The name (`core.fast_paths`) of the fused scan on a shape."""
    return fast_paths.named(fast_paths.SCAN, precision, L=L, D=D)


def _fused_scan(a_RxBxLx4D: Tensor, w_RxDx4D: Tensor) -> Tensor | None:
    """What the kernels compute; None where they don't run."""
    D, precision = w_RxDx4D.shape[1], precision_on_cuda()
    name = scan_path(a_RxBxLx4D.shape[2], D, precision)

    def fused(a_RxBxLx4D: Tensor, w_RxDx4D: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import lstm as kernel

        if not kernel.supports(a_RxBxLx4D):
            return None
        return kernel.fused_scan(a_RxBxLx4D, w_RxDx4D, precision, rescue=rescue)

    def rescue(
        error: Exception, d_h: Tensor, w: Tensor, h: Tensor, c: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients by plain operations: d_h, h and c are RxBxLxD, w is RxDx4D, gates
        RxBxLx4D."""
        fast_paths.failed(name, error)
        times = c.permute(2, 0, 3, 1).unbind()
        gates_of_times = gates.permute(2, 0, 3, 1).unflatten(2, (4, D)).unbind()
        d_a_Rx4DxLxB, d_w_Rx4DxD = _Scan.gradients(
            *(d_h.permute(0, 2, 3, 1), w.mT, h.permute(0, 2, 3, 1)),
            *(times, gates_of_times, [c.tanh() for c in times]),
        )
        return d_a_Rx4DxLxB.permute(0, 3, 2, 1), d_w_Rx4DxD.mT

    return fast_paths.attempt(name, fused, plain_scan, (a_RxBxLx4D, w_RxDx4D), _COMPARED)


class _Scan(torch.autograd.Function):
    """Time is a Python loop over operations on R x gates x D x B. Sequences are the last axis, so
    that a gate is one piece of memory.

    Products and sums are separate operations: a fused one rounds once or twice, depending on where
    in a tensor it is, so that a replica's bits would depend on its pack.
    """

    @staticmethod
    def forward(ctx: Any, a_Rx4DxLxB: Tensor, w_Rx4DxD: Tensor) -> Tensor:
        R, _, L, B = a_Rx4DxLxB.shape
        h = c = a_Rx4DxLxB.new_zeros(R, w_Rx4DxD.shape[2], B)
        kept: list[list[Tensor]] = [[], [], [], []]  # h, c, gates and tanh(c), by time
        for s in range(L):
            gate = (a_Rx4DxLxB[:, :, s] + product(w_Rx4DxD, h)).tanh_().unflatten(1, (4, -1))
            gate[:, :3].add_(1.0).mul_(0.5)
            o, i, f, g = gate.unbind(1)
            c = (i * g).add_(f * c)
            tanh = torch.tanh(c)
            h = o * tanh
            for times, t in zip(kept, (h, c, gate, tanh), strict=True):
                times.append(t)
        h_RxLxDxB = torch.stack(kept[0], dim=1)
        ctx.save_for_backward(w_Rx4DxD, h_RxLxDxB, *kept[1], *kept[2], *kept[3])
        return h_RxLxDxB

    @staticmethod
    def backward(ctx: Any, *grads_of_h: Tensor) -> tuple[Tensor, Tensor]:
        [grad_RxLxDxB] = grads_of_h
        w_Rx4DxD, h_RxLxDxB, *kept = ctx.saved_tensors
        L = h_RxLxDxB.shape[1]
        times = kept[:L], kept[L : 2 * L], kept[2 * L :]
        return _Scan.gradients(grad_RxLxDxB, w_Rx4DxD, h_RxLxDxB, *times)

    @staticmethod
    def gradients(
        grad_RxLxDxB: Tensor,
        w_Rx4DxD: Tensor,
        h_RxLxDxB: Tensor,
        cs: Sequence[Tensor],
        gates: Sequence[Tensor],
        tanhs: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Those by a and w, from the cell states, gates (R x 4 x D x B) and tanh(c) of all
        times."""
        R, L, D = h_RxLxDxB.shape[:3]
        w_RxDx4D = w_Rx4DxD.transpose(1, 2)
        grad_h = grad_c = torch.zeros_like(cs[0])
        grads: list[Tensor] = []  # of a, by time, from the last
        for s in reversed(range(L)):
            o, i, f, g = gates[s].unbind(1)
            grad_h = grad_h + grad_RxLxDxB[:, s]
            grad_c = (tanhs[s] * tanhs[s]).neg_().add_(1.0).mul_(o).mul_(grad_h).add_(grad_c)
            # A gate's derivative in its halved argument is 2 s (1 - s), the content's 1 - g^2.
            grad = (gates[s] * gates[s]).neg_()
            grad[:, :3].add_(gates[s][:, :3]).mul_(2.0)
            grad[:, 3].add_(1.0)
            grad[:, 0].mul_(tanhs[s]).mul_(grad_h)
            grad[:, 1].mul_(g)
            grad[:, 2].mul_(cs[s - 1] if s else torch.zeros_like(g))
            grad[:, 3].mul_(i)
            grad[:, 1:].mul_(grad_c[:, None])
            grads.append(grad.flatten(1, 2))
            if s:
                grad_h = product(w_RxDx4D, grads[-1])
                grad_c = grad_c * f
        grad_a_Rx4DxLxB = torch.stack(grads[::-1], dim=2)
        before_RxDxLB = h_RxLxDxB[:, :-1].transpose(1, 2).reshape(R, D, -1)
        grad_w_Rx4DxD = product(
            grad_a_Rx4DxLxB[:, :, 1:].reshape(R, 4 * D, -1), before_RxDxLB.transpose(1, 2)
        )
        return grad_a_Rx4DxLxB, grad_w_Rx4DxD


def state_size(cell: Cell) -> int:
    """layers x (hidden state + cell state) = 2 num_layers model_size, however long the sequence."""
    return 2 * cell.num_layers * cell.model_size


def forward_flops(cell: Cell) -> int:
    """Operations of all layers for a batch."""
    return cell.batch_size * cell.num_tokens * cell.num_layers * layer_flops(cell.model_size)


def layer_flops(D: int) -> int:
    """Operations of one layer at one time: the products with the input and the hidden state."""
    return 2 * 2 * D * 4 * D


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: for each layer and time four gates before and after, three states
    and the input."""
    return cell.num_layers * cell.num_tokens * layer_activations(cell.model_size)


def layer_activations(D: int) -> int:
    """Numbers kept of one layer at one time."""
    return (4 + 4 + 3 + 1) * D
