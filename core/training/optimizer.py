"""Adam on the flat parameter buffers of a stack, each replica at its own learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from metaphase.core.architectures.parameters import Spec, buffer_size, views
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
) -> Tensor:
    """A step of Adam (Kingma and Ba 2015, algorithm 1), in place.

    Args:
        theta_RxP, moment1_RxP, moment2_RxP, grad_RxP: weights, moments and gradients, float32.
        step: int64 scalar, from 0.
        rate_R, rate_P: the learning rate is their product; float32.
        epsilon_R: float32.
        alive_R: bool; the weights of the other replicas stay.

    Returns:
        finite_R, bool: whether all of a replica's weights and moments are finite.
    """
    function = cpu.adam if cpu.serves(theta_RxP) else plain_adam
    return function(
        *(theta_RxP, moment1_RxP, moment2_RxP, grad_RxP),
        step=step,
        betas=betas,
        rate_R=rate_R,
        rate_P=rate_P,
        epsilon_R=epsilon_R,
        alive_R=alive_R,
    )


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
    theta_RxP.sub_(torch.where(alive_R[:, None], change_RxP, 0.0))
    buffers = (theta_RxP, moment1_RxP, moment2_RxP)
    return torch.stack([t_RxP.isfinite().all(dim=1) for t_RxP in buffers]).all(dim=0)
