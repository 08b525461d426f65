"""Counter-based random numbers: pure functions of (seed, purpose, counters), with no state.

Philox4x32 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
turns a 64-bit key and a 128-bit counter into four 32-bit words. Our key is (seed, purpose); the
counters say which number of the purpose is meant. Any number can be computed anywhere, alone or in
a batch, on any device, so no generator is ever saved, restored or shared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaphase.core.kernels import cpu

# Table 2 of the paper: Philox4x32 with 7 rounds is the fastest that passes all of BigCrush.
ROUNDS = 7
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57  # section 4.3 of the paper
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85  # golden ratio and sqrt(3) - 1, section 4.3
_MASK = 0xFFFFFFFF

# What the numbers of a seed are for. A number never serves two purposes.
(
    PROJECTION,
    PERMUTATION,
    TRAIN_TASKS,
    TRAIN_IMAGES,
    EVAL_TASKS,
    EVAL_IMAGES,
    INIT,
    DATASET,
    IDENTITY,
    NOISE,
    NOISE_OFFSET,
    YARDSTICK,
    TRAIN_CLASSES,
    EVAL_CLASSES,
    TRAIN_ZIPF,
    EVAL_ZIPF,
    BURSTS,
    BURST_CLASSES,
    LABEL_NOISE,
    RELABELLING,
) = range(20)

NOISE_ALIGNMENT = (
    8  # entries between the places of a noise table: 16 bytes in bf16, a thread's load
)

Word = Tensor | int

# Normals that the plain generator draws at a time, a matrix at least: on a CPU few enough to stay
# in the caches, anywhere few enough that its 64-bit words don't take several times the normals'
# memory.
_AT_ONCE = {"cpu": 2**17, "cuda": 2**25}


def philox(
    seed: Word, purpose: int, counters: tuple[Word, ...], rounds: int = ROUNDS
) -> list[Tensor]:
    """Four random words in [0, 2^32) for each counter, as int64 tensors.

    Args:
        seed: int64 tensor or int in [0, 2^32).
        purpose: one of the purposes of this module.
        counters: up to four int64 tensors or ints in [0, 2^32), at least one a tensor. They and
            `seed` broadcast together to the shape of the results.
    """
    c0, c1, c2, c3 = (*counters, 0, 0, 0)[:4]
    key_0, key_1 = seed, purpose
    for r in range(rounds):
        if r:
            key_0, key_1 = (key_0 + WEYL_0) & _MASK, (key_1 + WEYL_1) & _MASK
        # int64 products wrap modulo 2^64, which keeps both 32-bit halves right.
        product_0, product_1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0, c1 = _high(product_1) ^ c1 ^ key_0, product_1 & _MASK
        c2, c3 = _high(product_0) ^ c3 ^ key_1, product_0 & _MASK
    return list(torch.broadcast_tensors(*(torch.as_tensor(c) for c in (c0, c1, c2, c3))))


def _high(product: Word) -> Word:
    """The upper 32 bits of a 64-bit product."""
    return (product >> 32) & _MASK


def uniform(word: Tensor) -> Tensor:
    """Turns words into float32 in (0, 1), never 0 or 1: the 2^23 midpoints that float32 holds
    exactly."""
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23


def integer(word: Tensor, bound: Tensor | int) -> Tensor:
    """Turns words into int64 uniform in [0, bound), bound <= 2^32 (Lemire 2019, without rejection).

    A value's probability is off by less than 2^-32: exact where bound is a power of two.
    """
    return ((word * bound) >> 32) & _MASK


def normals(words: list[Tensor]) -> Tensor:
    """Turns four words into four independent N(0, 1), float32, on a new last axis (Box and Muller
    1958)."""
    pairs = []
    for first, second in (words[:2], words[2:]):
        radius = torch.sqrt(-2.0 * torch.log(uniform(first)))
        angle = (2.0 * math.pi) * uniform(second)
        pairs += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(pairs, dim=-1)


def normal_matrix(
    seed: Tensor,
    purpose: int,
    rows: int,
    columns: int,
    low: Word = 0,
    high: Word = 0,
    scale: float = 1.0,
) -> Tensor:
    """Matrices of N(0, scale^2), float32, one for each (seed, low, high): (*batch, rows, columns).

    Entry [i, 4 q + w] comes from word w of the counter (i * ceil(columns / 4) + q, low, high).

    Args:
        seed, low, high: int64, broadcasting to the shape `batch`, of M matrices in all.
    """
    words = torch.broadcast_tensors(
        *(torch.as_tensor(word, device=seed.device) for word in (seed, low, high))
    )
    seed_M, low_M, high_M = (word.flatten() for word in words)
    if seed.device.type == "cpu" and cpu.available():
        entries = cpu.normals(seed_M, low_M, high_M, purpose, rows, columns, scale)
    else:
        entries = torch.empty(len(seed_M), rows, columns, device=seed.device)
        count = max(1, _AT_ONCE.get(seed.device.type, _AT_ONCE["cuda"]) // (rows * columns))
        parts = (t.split(count) for t in (entries, seed_M, low_M, high_M))
        for part, seed_, low_, high_ in zip(*parts, strict=True):
            plain = plain_normal_matrix(seed_, purpose, rows, columns, low_, high_)
            part.copy_(plain.mul_(scale))
    return entries.view(*words[0].shape, rows, columns)


def plain_normal_matrix(
    seed: Tensor, purpose: int, rows: int, columns: int, low: Word = 0, high: Word = 0
) -> Tensor:
    """The definition of `normal_matrix`, with scale 1."""
    blocks = -(-columns // 4)
    counter = torch.arange(rows * blocks, device=seed.device)

    def spread(word: Word) -> Word:
        return word[..., None] if isinstance(word, Tensor) else word

    words = philox(seed[..., None], purpose, (counter, spread(low), spread(high)))
    entries = normals([w.contiguous() for w in words])
    return entries.reshape(*entries.shape[:-2], rows, blocks * 4)[..., :columns]


def wide_normals(u: Tensor) -> Tensor:
    """Turns uniform numbers in (0, 1) into as many independent N(0, 1), float64; the last axis has
    an even length.

    This is Box and Muller's method in double precision: what is rounded from it to 16 bits after
    the point is the same on machines whose logarithms differ in the last place.
    """
    first, second = u.double().unflatten(-1, (-1, 2)).unbind(-1)
    radius, angle = torch.sqrt(-2.0 * torch.log(first)), (2.0 * math.pi) * second
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(-2)


def permuted(keys: list[Tensor], x: Tensor, bound: Word, offset: Word = 0) -> Tensor:
    """Where pseudo-random permutations of [0, bound) put x: int64, of the shape of all broadcast.

    The swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012): each round pairs x with
    K - x mod bound and swaps the pair on the toss of a coin. An element that no round moves stays
    in place, with probability 2^-SHUFFLE_ROUNDS.

    Args:
        keys: SHUFFLE_ROUNDS words; equal ones make the same permutation.
        x: int64 in [0, bound).
        bound: 1 to 2^32.
        offset: permutations of one key toss different coins where offset + x is different.
    """
    for key in keys:
        partner = integer(key, bound) - x
        partner = torch.where(partner < 0, partner + bound, partner)
        coin = _mix(torch.maximum(x, partner) + offset, key)
        x = torch.where(coin, partner, x)
    return x


SHUFFLE_ROUNDS = 16


def _mix(value: Tensor, key: Tensor) -> Tensor:
    """A fair coin for each (value, key): murmur3's 32-bit finalizer, its top bit."""
    h = (value * 0x9E3779B1 + key) & _MASK
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
    return (h ^ (h >> 16)) >= 2**31


def noise_place_bits(noise: Tensor) -> int:
    """Rows start at 2^this places of a noise table (`core.tasks.projected_images.noise_table`)."""
    return (len(noise) // NOISE_ALIGNMENT).bit_length() - 1
