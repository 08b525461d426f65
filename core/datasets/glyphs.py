"""Handwritten-looking characters, drawn by the program: many classes without a download.

The idea is that of Omniglot and its generative model (Lake, Salakhutdinov and Tenenbaum 2015): a
class is a program of pen strokes, an image one execution of it with a hand that isn't steady. A
program is one to four smooth strokes, each started anywhere, at the end of the one before or on it;
an execution moves the strokes' control points, tilts, stretches, shears and shifts the whole, and
picks a pen. Everything is a pure function of the class and the image number.

It is computed in float64 and rounded to 256 grey levels. Machines whose cosines, exponentials or
orders of summation differ in the last of 52 bits draw the same glyphs: one pixel in 10^11 or so may
fall so near the border of two levels that it is rounded otherwise.

Axes: I images, Z strokes, J control points, P points at which the pen touches down, V x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaphase.core import rng
from metaphase.core.datasets import DATASETS

WHITE = 255  # of the levels of ink, which start at 0
SIDE = 28  # pixels
_SEED = 1  # of rng.DATASET; `random` has 0
_STROKES = 4  # at most
_KNOTS = 4  # control points of a stroke, a cubic Bezier curve
_DOTS = 24  # points at which the pen touches down, a stroke
_PROGRAM, _EXECUTION, _NOISE = 1, 2, 3  # what a draw is for


def draw_split(train: bool, num_classes: int) -> tuple[Tensor, int, Tensor]:
    """Ink x_Ix1xVxW (uint8), the level that stands for 1, and labels y_I of a split.

    A split has the first classes and as many images of each; held-out images are further drawings
    of the same classes.
    """
    info = DATASETS["glyphs"]
    of_class, heldout = info.num_train // info.num_classes, info.num_heldout // info.num_classes
    number = torch.arange(of_class) if train else of_class + torch.arange(heldout)
    y_I = torch.arange(num_classes).repeat_interleave(len(number))
    return draw(y_I, number.repeat(num_classes))[:, None], WHITE, y_I


def draw(class_I: Tensor, number_I: Tensor, chunk: int = 2048) -> Tensor:
    """Images x_IxVxW, uint8 ink from 0 to 255, of classes and of executions by number (int64)."""
    parts = zip(class_I.split(chunk), number_I.split(chunk), strict=True)
    return torch.cat([_draw(c, n) for c, n in parts])


def _draw(class_I: Tensor, number_I: Tensor) -> Tensor:
    knots_IxZxJx2, drawn_IxZ = _programs(class_I)
    knots_IxZxJx2, pen_I = _execute(knots_IxZxJx2, class_I, number_I)
    return (255.0 * _ink(knots_IxZxJx2, drawn_IxZ, pen_I)).round().to(torch.uint8)


def _programs(class_I: Tensor) -> tuple[Tensor, Tensor]:
    """Control points of the strokes of each class, the whole character fitted into the square from
    -1 to 1, and which of the strokes it has."""
    each = 3 + 2 * _KNOTS  # draws a stroke
    u = _uniforms(class_I, 0, _PROGRAM, 1 + _STROKES * each)
    # Cumulated chances of 1, 2, 3 strokes; Omniglot's characters mostly have two or three.
    count_I = 1 + (u[:, :1] > torch.tensor([0.05, 0.4, 0.8], dtype=torch.float64)).sum(dim=1)
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
    knots_IxZxJx2 = torch.stack(strokes, dim=1)
    drawn_IxZ = torch.arange(_STROKES) < count_I[:, None]
    absent = ~drawn_IxZ[..., None, None]
    low = knots_IxZxJx2.masked_fill(absent, math.inf).amin(dim=(1, 2))
    high = knots_IxZxJx2.masked_fill(absent, -math.inf).amax(dim=(1, 2))
    half_extent = (high - low).amax(dim=1).clamp(min=0.5) / 2.0
    centre = (high + low) / 2.0
    fitted = (knots_IxZxJx2 - centre[:, None, None]) / half_extent[:, None, None, None]
    return fitted, drawn_IxZ


def _execute(knots: Tensor, class_I: Tensor, number_I: Tensor) -> tuple[Tensor, Tensor]:
    """The control points as drawn this time, in pixels, and the pen's radius in pixels."""
    noise = knots[0].numel()
    z = rng.wide_normals(_uniforms(class_I, number_I, _NOISE, noise + 6))
    knots = knots + 0.07 * z[:, :noise].view(knots.shape)
    tilt, wide, tall, shear, right, down = z[:, noise:].clamp(-2.5, 2.5).unbind(1)
    tilt = 0.15 * tilt  # radians
    rotate = torch.stack([tilt.cos(), -tilt.sin(), tilt.sin(), tilt.cos()], dim=1).view(-1, 2, 2)
    zero = torch.zeros_like(tilt)
    stretch = torch.stack(
        [torch.exp(0.1 * wide), 0.15 * shear, zero, torch.exp(0.1 * tall)], dim=1
    ).view(-1, 2, 2)
    moved = torch.einsum("nij,nlkj->nlki", rotate @ stretch, knots)
    moved = moved + 0.07 * torch.stack([right, down], dim=1)[:, None, None]
    pen_I = 0.6 + 0.4 * _uniforms(class_I, number_I, _EXECUTION, 1)[:, 0]
    return (SIDE - 1) / 2.0 + 0.34 * SIDE * moved, pen_I


def _ink(knots_IxZxJx2: Tensor, drawn_IxZ: Tensor, pen_I: Tensor) -> Tensor:
    """Ink left by a soft pen: dots along the strokes, each as much as the length it stands for."""
    t_P = (torch.arange(_DOTS, dtype=torch.float64) + 0.5) / _DOTS
    shape = (*knots_IxZxJx2.shape[:2], _DOTS)
    at_IxZxPx2 = _bezier(knots_IxZxJx2[:, :, None], t_P.expand(shape))
    hull = 3.0 * knots_IxZxJx2.diff(dim=2)  # control points of the derivative
    speed_IxZxP = _bezier(hull[:, :, None], t_P.expand(shape)).norm(dim=-1)
    weight_IxZP = (speed_IxZxP / _DOTS * drawn_IxZ[..., None]).flatten(1)
    pixel_V = torch.arange(SIDE)
    distance_Ix2xZPxV = pixel_V - at_IxZxPx2.flatten(1, 2).transpose(1, 2)[..., None]
    reach = torch.exp(-0.5 * (distance_Ix2xZPxV / pen_I[:, None, None, None]).square())
    across, down = reach.unbind(1)
    total_IxVxW = torch.bmm((down * weight_IxZP[..., None]).transpose(1, 2), across)
    # In the middle of a long line the total is pen sqrt(2 pi); there 95% of the paper is inked.
    return 1.0 - torch.exp(-3.0 * total_IxVxW / (pen_I[:, None, None] * math.sqrt(2.0 * math.pi)))


def _bezier(knots: Tensor, t: Tensor) -> Tensor:
    """Points at t in [0, 1] of the curves with control points knots (..., J, 2) (de Casteljau)."""
    t = t[..., None, None]
    while knots.shape[-2] > 1:
        knots = knots[..., :-1, :] * (1.0 - t) + knots[..., 1:, :] * t
    return knots[..., 0, :]


def _uniforms(class_I: Tensor, number: Tensor | int, kind: int, count: int) -> Tensor:
    """u_Ixcount, uniform in (0, 1), float64."""
    block = torch.arange(-(-count // 4))
    high = kind + 16 * number
    high = high[:, None] if isinstance(high, Tensor) else high
    words = rng.philox(_SEED, rng.DATASET, (block, class_I[:, None], high, 1))
    return rng.uniform(torch.stack(words, dim=-1).flatten(1)[:, :count]).double()
