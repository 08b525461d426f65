"""The random numbers that a task family of the user's draws from: pure functions of what they are
for, with no state (`core.rng`)."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from metaphase.core import rng

_FIRST_PURPOSE = 2**16  # those below are the program's own


class Random:
    """The random numbers of a batch of things, tasks or sequences, each with a number of its own.

    Every method takes a name, which says what the numbers are for: another name gives independent
    ones, the same name the same ones again. They have the shape (*batch, *shape). What one thing
    is given doesn't depend on the others of the batch, to the bit.

    Args:
        kind: of thing.
        seed, low, high: int64 in [0, 2^32), broadcasting to the shape `batch`: the seed, and the
            two halves of the things' numbers.
        count: how many there are with the same `high`, int64 in [1, 2^32].
    """

    def __init__(
        self, kind: str, seed: Tensor, low: Tensor, high: Tensor, count: Tensor | int = 2**32
    ) -> None:
        self._kind, self._count = kind, count
        self._seed, self._low, self._high = torch.broadcast_tensors(seed, low, high)

    @property
    def batch(self) -> torch.Size:
        """The shape of the batch."""
        return self._seed.shape

    def normal(self, name: str, *shape: int) -> Tensor:
        """N(0, 1), float32."""
        numbers = rng.normal_matrix(
            self._seed, self._purpose(name), 1, math.prod(shape), self._low, self._high
        )
        return numbers.reshape(*self.batch, *shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform in (0, 1), float32, never 0 or 1."""
        return rng.uniform(self._words(name, *shape))

    def integers(self, name: str, bound: int, *shape: int) -> Tensor:
        """Uniform in 0 ... bound - 1, int64; bound at most 2^32."""
        return rng.integer(self._words(name, *shape), bound)

    def permutation(self, name: str, length: int) -> Tensor:
        """A uniform permutation of 0 ... length - 1, int64, (*batch, length)."""
        return self._words(name, length).argsort(dim=-1, stable=True)

    def distinct(self, name: str, bound: int, count: int) -> Tensor:
        """`count` distinct numbers in 0 ... bound - 1, int64, (*batch, count), in any order.

        Raises:
            ValueError: there aren't as many.
        """
        if count > bound:
            raise ValueError(f"{count} distinct numbers below {bound}")
        keys = self._words(name, rng.SHUFFLE_ROUNDS)[..., None, :].unbind(-1)
        number = torch.arange(count, device=self._seed.device)
        return rng.permuted(list(keys), number, bound)

    def others(self, drawn_by: Random, name: str, length: int) -> Random:
        """As many things of this kind for each of the batch, (*batch, length), drawn uniformly and
        with replacement from those that it is among: of a task from the N trained on, or from new
        ones. `name` says what they are for; `drawn_by` is what draws them, the sequence."""
        count = self._count[..., None] if isinstance(self._count, Tensor) else self._count
        low = rng.integer(drawn_by._words(name, length), count)
        return Random(self._kind, self._seed[..., None], low, self._high[..., None])

    def simplex(self, name: str, count: int, *shape: int) -> Tensor:
        """Points of Dirichlet(1, ..., 1), float32, (*batch, *shape, count): the gaps between
        sorted uniform numbers (David and Nagaraja 2003, *Order Statistics*, section 6.4)."""
        cuts = self.uniform(name, *shape, count - 1).sort(dim=-1).values
        ends = cuts.new_tensor([0.0, 1.0]).expand(*cuts.shape[:-1], 2)
        return torch.cat([ends[..., :1], cuts, ends[..., 1:]], dim=-1).diff(dim=-1)

    def _words(self, name: str, *shape: int) -> Tensor:
        count = math.prod(shape)
        block = torch.arange(-(-count // 4), device=self._seed.device)
        seed, low, high = (t[..., None] for t in (self._seed, self._low, self._high))
        four = rng.philox(seed, self._purpose(name), (block, low, high))
        words = torch.stack(four, dim=-1).flatten(-2)[..., :count]
        return words.reshape(*self.batch, *shape)

    def _purpose(self, name: str) -> int:
        digest = zlib.crc32(f"{self._kind} {name}".encode())
        return _FIRST_PURPOSE + digest % (2**32 - _FIRST_PURPOSE)
