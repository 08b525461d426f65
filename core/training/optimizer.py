"""Adam on the flat parameter buffers of a stack, each replica at its own learning rate.

With it go warm-up and schedules of the rate, decoupled weight decay, and clipping of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.architectures.parameters import Spec, buffer_size, views
from metaphase.core.cell import Cell
from metaphase.core.fast_paths import Asked
from metaphase.core.kernels import cpu


def rate_multipliers(specs: dict[str, Spec], base_width: int, device: torch.device) -> Tensor:
    """rate_P: what the learning rate is multiplied by in each column of the flat buffer.

    Yang et al. 2022 ("Tensor Programs V", table 3): with Adam, rates of maps from the width, hidden
    and output ones, go with 1 / fan-in, those of all others are the same at every width. Here they
    are the learning rate itself where the fan-in is `base_width`. With a base width of 0 all are 1.
    """
    rate_P = torch.ones(buffer_size(specs), device=device)
    for name, view in views(rate_P[None], specs).items():
        fan_in = specs[name].fan_in
        if base_width and fan_in is not None:
            view.fill_(base_width / fan_in)
    return rate_P


def warm_up(step: Tensor, steps: int) -> Tensor:
    """What the learning rate is multiplied by at `step` (int64 scalar, from 0): it rises linearly
    to 1 over the first `steps`."""
    return ((step + 1) / max(steps, 1)).clamp(max=1.0)


def scheduled(step: Tensor, cell: Cell, end_R: Tensor) -> Tensor:
    """factor_R, float64: what the learning rate is multiplied by at `step` (int64 scalar, from 0)
    beside its warm-up.

    From 1 at the first step after the warm-up it falls towards end_R (float64), which it would have
    at step `steps`, one after the last: along a line, or along half a cosine (Loshchilov and Hutter
    2017, "SGDR", equation 5). These are PyTorch's LinearLR and CosineAnnealingLR. A triangle is a
    line after a warm-up of half the steps.
    """
    length = max(cell.steps - cell.warmup_steps, 1)
    done = ((step - cell.warmup_steps).double() / length).clamp(min=0.0)
    left = 1.0 - done
    if cell.learning_rate_schedule == "cosine":
        left = (1.0 + torch.cos(math.pi * done)) / 2.0
    return end_R + (1.0 - end_R) * left


def clip(grad_RxP: Tensor, limit_R: Tensor) -> None:
    """Scales each replica's gradient in place to its limit where its norm is larger (Pascanu et al.
    2013, algorithm 1, with PyTorch's 1e-6); a limit of 0 is none. All float32."""
    function = cpu.clip if cpu.serves(grad_RxP) else plain_clip
    function(grad_RxP, limit_R)


def plain_clip(grad_RxP: Tensor, limit_R: Tensor) -> None:
    """The definition of `clip`. The norm is computed in float64: no square overflows, and how the
    sum is split up doesn't show."""
    norm_R = torch.linalg.vector_norm(grad_RxP, dim=1, dtype=torch.float64)
    scale_R = (limit_R / (norm_R + 1e-6)).clamp(max=1.0)
    scale_R = torch.where(limit_R > 0, scale_R, 1.0)
    grad_RxP.mul_(scale_R.to(grad_RxP.dtype)[:, None])


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
    """A step of Adam (Kingma and Ba 2015, algorithm 1), in place; with decoupled weight decay it is
    AdamW (Loshchilov and Hutter 2019, algorithm 2, as PyTorch has it).

    Args:
        theta_RxP, moment1_RxP, moment2_RxP, grad_RxP: weights, moments and gradients, float32.
        step: int64 scalar, from 0.
        rate_R, rate_P: the learning rate is their product; float32.
        epsilon_R: float32.
        alive_R: bool; the weights of the other replicas stay.
        decay_R: float32, the share of every weight that is taken away before; None: nothing.

    Returns:
        finite_R, bool: whether all of a replica's weights and moments are finite.
    """
    buffers = (theta_RxP, moment1_RxP, moment2_RxP, grad_RxP)
    settings: dict[str, Any] = {
        "step": step,
        "betas": betas,
        "rate_R": rate_R,
        "rate_P": rate_P,
        "epsilon_R": epsilon_R,
        "alive_R": alive_R,
        "decay_R": decay_R,
    }
    if cpu.serves(theta_RxP):
        return cpu.adam(*buffers, **settings)
    finite_R = _fused_adam(buffers, settings) if fast_paths.may_fuse(theta_RxP.device) else None
    return plain_adam(*buffers, **settings) if finite_R is None else finite_R


def _fused_adam(buffers: tuple[Tensor, ...], settings: dict[str, Any]) -> Tensor | None:
    """What the kernel returns; None where it doesn't run."""
    decays = int(settings["decay_R"] is not None)
    name = fast_paths.named(fast_paths.ADAM, "fp32", decays=decays)

    def fused(*buffers: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import adam as kernel

        if not kernel.supports(buffers[0].device):
            return None
        return kernel.adam(*buffers, **settings)

    def changed(step: Callable[..., Tensor | None]) -> Tensor:
        """What a step makes of weights and moments like these."""
        copies = [buffer.clone() for buffer in buffers]
        step(*copies)
        return torch.stack(copies[:3])

    def tried() -> Tensor | None:
        from metaphase.core.kernels.cuda import adam as kernel

        return changed(fused) if kernel.supports(buffers[0].device) else None

    plain = partial(plain_adam, **settings)
    fast_paths.ask(Asked(name, tried, partial(changed, plain), (), 0))
    return fast_paths.used(name, fused, buffers)


def plain_adam(
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
    """The definition of `adam`."""
    beta1, beta2 = betas
    moment1_RxP.lerp_(grad_RxP, 1.0 - beta1)
    moment2_RxP.mul_(beta2).addcmul_(grad_RxP, grad_RxP, value=1.0 - beta2)
    t = (step + 1).double()
    correction1, correction2 = 1.0 - beta1**t, 1.0 - beta2**t
    deviation_RxP = (moment2_RxP / correction2).sqrt_().add_(epsilon_R[:, None])
    change_RxP = (moment1_RxP / deviation_RxP).mul_((rate_R / correction1)[:, None])
    change_RxP.mul_(rate_P)
    if decay_R is not None:
        theta_RxP.mul_(torch.where(alive_R, 1.0 - decay_R, 1.0)[:, None])
    theta_RxP.sub_(torch.where(alive_R[:, None], change_RxP, 0.0))
    buffers = (theta_RxP, moment1_RxP, moment2_RxP)
    return torch.stack([t_RxP.isfinite().all(dim=1) for t_RxP in buffers]).all(dim=0)
