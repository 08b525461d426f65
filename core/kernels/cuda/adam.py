"""Adam's step in one kernel: each number is read and written once, 28 bytes a weight, where the
plain one's operations move 170.

A program has a piece of a replica's row. Whether all of its weights and moments are finite is kept
for each piece, so nothing depends on how many replicas there are.

The twin is `core.training.optimizer.plain_adam`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.kernels.cuda.common import FIRST_CAPABILITY, check_on_device, limits

_PIECE = 2048
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def _adam(
    finite, theta, moment1, moment2, grad, rate_p, rate_r, epsilon_r, alive_r, decay_r, correction,
    P, PIECES, keep2, new1, new2, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    r, p = program // PIECES, (program % PIECES) * BLOCK + tl.arange(0, BLOCK)
    inside = p < P
    at = r * P + p
    g = tl.load(grad + at, mask=inside, other=0.0)
    m = tl.load(moment1 + at, mask=inside, other=0.0)
    v = tl.load(moment2 + at, mask=inside, other=0.0)
    weight = tl.load(theta + at, mask=inside, other=0.0)
    m = m + (g - m) * new1
    v = v * keep2 + g * g * new2
    deviation = tl.sqrt_rn(tl.div_rn(v, tl.load(correction))) + tl.load(epsilon_r + r)
    change = tl.div_rn(m, deviation) * tl.load(rate_r + r)
    change *= tl.load(rate_p + p, mask=inside, other=0.0)
    alive = tl.load(alive_r + r) != 0
    if decay_r is not None:
        weight = tl.where(alive, weight * (1.0 - tl.load(decay_r + r)), weight)
    weight = tl.where(alive, weight - change, weight)
    tl.store(moment1 + at, m, mask=inside)
    tl.store(moment2 + at, v, mask=inside)
    tl.store(theta + at, weight, mask=inside)
    good = (tl.abs(weight) <= _LARGEST) & (tl.abs(m) <= _LARGEST) & (v <= _LARGEST)
    tl.store(finite + program, tl.min((good | (p >= P)).to(tl.int32), 0))


def supports(device: torch.device) -> bool:
    """Return whether `adam` is for this device."""
    return limits(device).capability >= FIRST_CAPABILITY


def adam(
    theta_RxP: Tensor,
    moment1_RxP: Tensor,
    moment2_RxP: Tensor,
    grad_RxP: Tensor,
    *,
    step: Tensor,
    betas: tuple[float, float],
    rate_R: Tensor,
    rate_P: Tensor,
    epsilon_R: Tensor,
    alive_R: Tensor,
    decay_R: Tensor | None = None,
) -> Tensor:
    """Compute what `core.training.optimizer.adam` says, in place.

    Raises:
        ValueError: a buffer isn't contiguous.
    """
    numbers = (theta_RxP, moment1_RxP, moment2_RxP, grad_RxP, rate_P)
    check_on_device(*numbers, rate_R, epsilon_R, alive_R)
    R, P = theta_RxP.shape
    if not all(t.is_contiguous() for t in numbers):
        raise ValueError("buffers of weights, moments and gradients must be contiguous")
    beta1, beta2 = betas
    t = (step + 1).double()
    correction = (1.0 - beta2**t).float()
    rate_R = (rate_R / (1.0 - beta1**t)).float()
    pieces = triton.cdiv(P, _PIECE)
    finite = torch.empty(R, pieces, dtype=torch.int32, device=theta_RxP.device)
    with current(theta_RxP.device):
        _adam[(R * pieces,)](
            finite, *numbers, rate_R, epsilon_R, alive_R, decay_R, correction,
            P, pieces, beta2, 1.0 - beta1, 1.0 - beta2, BLOCK=_PIECE, num_warps=8,
        )  # fmt: skip
    return finite.bool().all(dim=1)
