"""Sequence models, each a module of pure functions over stacked parameters.

To add one: a module with the functions of `Architecture`, an entry in `ARCHITECTURES`, its name in
`core.config.Architecture`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from core.config import Cell
from core.parameters import Spec


@dataclass(frozen=True)
class Architecture:
    """A stack of layers between the token embeddings and the output head.

    Attributes:
        parameters: (cell) -> name -> Spec of its parameters, without the replica axis.
        apply: (parameters, h_RxBxSxD, cell, stride) -> outputs at the positions 0, stride,
            2 stride ...: R x B x ceil(S / stride) x D. Causal: output s depends on inputs up to s.
        state_size: (cell) -> the number of scalars carried from the examples of a whole sequence
            that can influence the next prediction.
        forward_flops: (cell) -> floating-point operations of the layers for one batch.
        activations: (cell) -> numbers of one sequence that the backward pass needs.
    """

    parameters: Callable[[Cell], dict[str, Spec]]
    apply: Callable[[dict[str, Tensor], Tensor, Cell, int], Tensor]
    state_size: Callable[[Cell], int]
    forward_flops: Callable[[Cell], int]
    activations: Callable[[Cell], int]


from core.architectures import transformer  # noqa: E402  (they import the names above)

ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(
        parameters=transformer.parameters,
        apply=transformer.apply,
        state_size=transformer.state_size,
        forward_flops=transformer.forward_flops,
        activations=transformer.activations,
    ),
}
