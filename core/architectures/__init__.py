"""Sequence models, each a module of pure functions over stacked parameters.

To add one: a module with the functions of `Architecture`, an entry in `ARCHITECTURES`, its name in
`core.cell.Architecture` and the settings it uses in `core.cell.ARCHITECTURE_SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell


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
        has_context: whether it sees labels and earlier positions. One that doesn't is given the
            inputs x alone, one token a position.
    """

    parameters: Callable[[Cell], dict[str, Spec]]
    apply: Callable[[dict[str, Tensor], Tensor, Cell, int], Tensor]
    state_size: Callable[[Cell], int]
    forward_flops: Callable[[Cell], int]
    activations: Callable[[Cell], int]
    has_context: bool = True


# They import the names above.
from metaphase.core.architectures import fast_weights, linear_attention, lstm, mlp, transformer  # noqa: E402


def _architecture(module: ModuleType, has_context: bool = True) -> Architecture:
    return Architecture(
        parameters=module.parameters,
        apply=module.apply,
        state_size=module.state_size,
        forward_flops=module.forward_flops,
        activations=module.activations,
        has_context=has_context,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "transformer": _architecture(transformer),
    "lstm": _architecture(lstm),
    "fast_weights": _architecture(fast_weights),
    "linear_attention": _architecture(linear_attention),
    "mlp": _architecture(mlp, has_context=False),
}
