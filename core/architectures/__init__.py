"""Sequence models, each a module of pure functions over stacked parameters.

What is known of each without torch stands here, since `core.cell` checks settings by it. To add
one: a module with the functions of `Layers`, and an entry of the module's name in `ARCHITECTURES`.
One of the user's is a class with these functions as methods, or an ordinary `torch.nn.Module`, made
known by `core.plugins`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.architectures.parameters import Spec
    from metaphase.core.cell import Cell
    from metaphase.core.settings import Setting


class Layers(Protocol):
    """A module of layers between the token embeddings and the output head."""

    @staticmethod
    def parameters(cell: Cell, /) -> dict[str, Spec]:
        """name -> Spec of its parameters, without the replica axis."""
        ...

    @staticmethod
    def apply(p: dict[str, Tensor], h: Tensor, cell: Cell, stride: int, /) -> Tensor:
        """Outputs at the positions 0, stride, 2 stride ... of h_RxBxLxD: R x B x ceil(L / stride)
        x D. Causal: output l depends on inputs up to l."""
        ...

    @staticmethod
    def state_size(cell: Cell, /) -> int | None:
        """The number of scalars carried from the examples of a whole sequence that can influence
        the next prediction; None where it isn't known."""
        ...

    @staticmethod
    def forward_flops(cell: Cell, /) -> int:
        """Floating-point operations of the layers for one batch."""
        ...

    @staticmethod
    def activations(cell: Cell, /) -> int:
        """Numbers of one sequence that the backward pass needs."""
        ...


@dataclass(frozen=True)
class Architecture:
    """Facts about a sequence model.

    Attributes:
        name: its module's.
        settings: of the settings that only some architectures use, those that this one does.
        has_context: whether it sees labels and earlier positions. One that doesn't is given the
            inputs x alone, one token a position.
        least_key_size: below it a head's memory holds nothing.
        slowness: how much longer a step takes than its operations say, where these are many small
            ones. Measured on one CPU core, widths 8 to 32, packs of 1 and 6.
        own: the settings that it brings itself, by name.
        make: its `Layers`, where they aren't a module of this package.
    """

    name: str
    settings: tuple[str, ...] = ()
    has_context: bool = True
    least_key_size: int = 1
    slowness: float = 1.0
    own: Mapping[str, Setting] = field(default_factory=dict)
    make: Callable[[], Layers] | None = None

    @functools.cached_property
    def layers(self) -> Layers:
        """Its functions, which need torch."""
        if self.make is not None:
            return self.make()
        return cast(Layers, importlib.import_module(f"{__name__}.{self.name}"))


# What a head reads from an outer-product memory passes a layer norm over its key_size numbers: of
# one nothing is left, and of two only which is the larger.
_LEAST_OF_MEMORIES = 3

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("transformer", ("num_heads", "key_size", "mlp_ratio", "position_encoding")),
        Architecture("lstm", slowness=2.5),
        Architecture(
            "fast_weights",
            ("num_heads", "key_size"),
            least_key_size=_LEAST_OF_MEMORIES,
            slowness=4.0,
        ),
        Architecture(
            "linear_attention",
            ("num_heads", "key_size", "mlp_ratio"),
            least_key_size=_LEAST_OF_MEMORIES,
            slowness=2.5,
        ),
        Architecture("mlp", ("mlp_ratio",), has_context=False),
    )
}
