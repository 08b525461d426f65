"""Handwritten-looking characters, drawn by the program: many classes without a download.

The idea is that of Omniglot and its generative model (Lake, Salakhutdinov and Tenenbaum 2015): a
class is a program of pen strokes, an image one execution of it with a hand that isn't steady. A
program is one to four smooth strokes, each started anywhere, at the end of the one before or on it;
an execution moves the strokes' control points, tilts, stretches, shears and shifts the whole, and
picks a pen. Everything is a pure function of the class and the image number.

It is computed in float64 and rounded to 256 grey levels. Machines whose cosines, exponentials or
orders of summation differ in the last of 52 bits draw the same glyphs: one pixel in 10^11 or so may
fall so near the border of two levels that it is rounded otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaphase.core import rng

SIDE = 28  # pixels
_SEED = 1  # of rng.DATASET; `random` has 0
_STROKES = 4  # at most
_KNOTS = 4  # control points of a stroke, a cubic Bezier curve
_DOTS = 24  # points at which the pen touches down, a stroke
_PROGRAM, _EXECUTION, _NOISE = 1, 2, 3  # what a draw is for


def draw(class_N: Tensor, number_N: Tensor, chunk: int = 2048) -> Tensor:
    """Images x_NxHxW, uint8 ink from 0 to 255, of classes and of executions by number (int64)."""
    parts = zip(class_N.split(chunk), number_N.split(chunk), strict=True)
    return torch.cat([_draw(c, n) for c, n in parts])


def _draw(class_N: Tensor, number_N: Tensor) -> Tensor:
    knots_NxLxKx2, drawn_NxL = _programs(class_N)
    knots_NxLxKx2, pen_N = _execute(knots_NxLxKx2, class_N, number_N)
    return (255.0 * _ink(knots_NxLxKx2, drawn_NxL, pen_N)).round().to(torch.uint8)


def _programs(class_N: Tensor) -> tuple[Tensor, Tensor]:
    """Control points of the strokes (axis L) of each class, the whole character fitted into the
    square from -1 to 1, and which of the strokes it has."""
    each = 3 + 2 * _KNOTS  # draws a stroke
    u = _uniforms(class_N, 0, _PROGRAM, 1 + _STROKES * each)
    # Cumulated chances of 1, 2, 3 strokes; Omniglot's characters mostly have two or three.
    count_N = 1 + (u[:, :1] > torch.tensor([0.05, 0.4, 0.8], dtype=torch.float64)).sum(dim=1)
    u = u[:, 1:].view(-1, _STROKES, each)
    strokes: list[Tensor] = []
    for stroke in range(_STROKES):
        relation, place, turns, lengths = u[:, stroke].split((1, 2, _KNOTS, _KNOTS), dim=1)
        start = 2.0 * place - 1.0
        if strokes:
            before = strokes[-1]
            on = _bezier(before, place[:, 0])
            start = torch.where(relation < 0.35, start, on)
            start = torch.where(relation > 0.75, before[:, -1], start)
        # The pen leaves in any direction and turns on by up to 2.2 radians a control point.
        first, more = 2.0 * math.pi * turns[:, :1], 2.2 * (2.0 * turns[:, 1:-1] - 1.0)
        angle = torch.cat([first, more], dim=1).cumsum(dim=1)
        length = 0.3 + 0.6 * lengths[:, :-1]
        steps = torch.stack([length * angle.cos(), length * angle.sin()], dim=-1)
        strokes.append(torch.cat([start[:, None], steps], dim=1).cumsum(dim=1))
    knots_NxLxKx2 = torch.stack(strokes, dim=1)
    drawn_NxL = torch.arange(_STROKES) < count_N[:, None]
    absent = ~drawn_NxL[..., None, None]
    low = knots_NxLxKx2.masked_fill(absent, math.inf).amin(dim=(1, 2))
    high = knots_NxLxKx2.masked_fill(absent, -math.inf).amax(dim=(1, 2))
    half_extent = (high - low).amax(dim=1).clamp(min=0.5) / 2.0
    centre = (high + low) / 2.0
    fitted = (knots_NxLxKx2 - centre[:, None, None]) / half_extent[:, None, None, None]
    return fitted, drawn_NxL


def _execute(knots: Tensor, class_N: Tensor, number_N: Tensor) -> tuple[Tensor, Tensor]:
    """The control points as drawn this time, in pixels, and the pen's radius in pixels."""
    N = len(class_N)
    noise = knots[0].numel()
    z = rng.wide_normals(_uniforms(class_N, number_N, _NOISE, noise + 6))
    knots = knots + 0.07 * z[:, :noise].view(knots.shape)
    tilt, wide, tall, shear, right, down = z[:, noise:].clamp(-2.5, 2.5).unbind(1)
    tilt = 0.15 * tilt  # radians
    rotate = torch.stack([tilt.cos(), -tilt.sin(), tilt.sin(), tilt.cos()], dim=1).view(N, 2, 2)
    zero = torch.zeros_like(tilt)
    stretch = torch.stack(
        [torch.exp(0.1 * wide), 0.15 * shear, zero, torch.exp(0.1 * tall)], dim=1
    ).view(N, 2, 2)
    moved = torch.einsum("nij,nlkj->nlki", rotate @ stretch, knots)
    moved = moved + 0.07 * torch.stack([right, down], dim=1)[:, None, None]
    pen_N = 0.6 + 0.4 * _uniforms(class_N, number_N, _EXECUTION, 1)[:, 0]
    return (SIDE - 1) / 2.0 + 0.34 * SIDE * moved, pen_N


def _ink(knots_NxLxKx2: Tensor, drawn_NxL: Tensor, pen_N: Tensor) -> Tensor:
    """Ink left by a soft pen: dots along the strokes, each as much as the length it stands for."""
    t_P = (torch.arange(_DOTS, dtype=torch.float64) + 0.5) / _DOTS
    shape = (*knots_NxLxKx2.shape[:2], _DOTS)
    at_NxLxPx2 = _bezier(knots_NxLxKx2[:, :, None], t_P.expand(shape))
    hull = 3.0 * knots_NxLxKx2.diff(dim=2)  # control points of the derivative
    speed_NxLxP = _bezier(hull[:, :, None], t_P.expand(shape)).norm(dim=-1)
    weight_NxD = (speed_NxLxP / _DOTS * drawn_NxL[..., None]).flatten(1)
    pixel_H = torch.arange(SIDE)
    distance_Nx2xDxH = pixel_H - at_NxLxPx2.flatten(1, 2).transpose(1, 2)[..., None]
    reach = torch.exp(-0.5 * (distance_Nx2xDxH / pen_N[:, None, None, None]).square())
    across, down = reach.unbind(1)
    total_NxHxW = torch.bmm((down * weight_NxD[..., None]).transpose(1, 2), across)
    # In the middle of a long line the total is pen sqrt(2 pi); there 95% of the paper is inked.
    return 1.0 - torch.exp(-3.0 * total_NxHxW / (pen_N[:, None, None] * math.sqrt(2.0 * math.pi)))


def _bezier(knots: Tensor, t: Tensor) -> Tensor:
    """Points at t in [0, 1] of the curves with control points knots (..., K, 2) (de Casteljau)."""
    t = t[..., None, None]
    while knots.shape[-2] > 1:
        knots = knots[..., :-1, :] * (1.0 - t) + knots[..., 1:, :] * t
    return knots[..., 0, :]


def _uniforms(class_N: Tensor, number: Tensor | int, kind: int, count: int) -> Tensor:
    """u_Nxcount, uniform in (0, 1), float64."""
    block = torch.arange(-(-count // 4))
    high = kind + 16 * number
    high = high[:, None] if isinstance(high, Tensor) else high
    words = rng.philox(_SEED, rng.DATASET, (block, class_N[:, None], high, 1))
    return rng.uniform(torch.stack(words, dim=-1).flatten(1)[:, :count]).double()
