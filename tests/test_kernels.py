"""The Triton kernels against their plain twins in float64: on a GPU if there is one, else in
Triton's interpreter (see tests/conftest.py)."""

from __future__ import annotations

import pytest
import torch

from core import tasks

pytest.importorskip("triton")

from core.kernels.projection import Tiles, image_table, project

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter knows no tf32, and cuts to bf16 where GPUs round.
PRECISIONS = ["fp32", "tf32x3", "tf32", "bf16"] if DEVICE == "cuda" else ["fp32", "bf16"]
# Relative errors.
TOLERANCE = {"fp32": 2e-6, "tf32x3": 2e-6, "tf32": 2e-3, "bf16": 1e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """New memory is NaN, so what a kernel leaves unwritten shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(make):
        def filled(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return filled

    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))


def error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


class Sequences:
    """Random images, sequences of them, and tasks."""

    def __init__(self, size, T, G=2, B=3, images=50, num_tasks=2**40):
        self.size, self.G = size, G
        self.images = torch.randn(images, size, device=DEVICE)
        self.index = torch.randint(images, (G, B, T), device=DEVICE)
        self.task = torch.randint(num_tasks, (G, B), device=DEVICE)
        self.seed = torch.randint(2**32, (G,), device=DEVICE)

    def expected(self, a_GxBxXxX):
        x = self.images[self.index].double()
        return x @ a_GxBxXxX.double().transpose(2, 3)

    def project(self, images=None, task=None, **kwargs):
        images = self.images if images is None else images
        task = self.task if task is None else task
        return project(images, self.index, task, size=self.size, **kwargs)


SHAPES = [(1, 1), (2, 17), (16, 8), (37, 19), (64, 100), (66, 130)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_drawn_projections_are_their_twin(size, T, precision):
    s = Sequences(size, T)
    expected = s.expected(tasks.projections(s.seed[:, None], s.task, size))
    for images in (s.images, image_table(s.images, precision), s.images.T.contiguous().T):
        y = s.project(images, seed_G=s.seed, precision=precision)
        assert error(y, expected) < TOLERANCE[precision]


@pytest.mark.parametrize("tiles", [Tiles(16, 16), Tiles(128, 64), Tiles(32, 128, 8, 2)])
def test_projections_dont_depend_on_the_tiles(tiles):
    s = Sequences(70, 9)
    expected = s.expected(tasks.projections(s.seed[:, None], s.task, s.size))
    y = s.project(seed_G=s.seed, precision="fp32", tiles=tiles)
    assert error(y, expected) < TOLERANCE["fp32"]


def test_entries_drawn_are_those_of_the_twin_one_by_one():
    """Images that are unit vectors read A itself."""
    s = Sequences(33, 33, B=2)
    s.images = torch.eye(33, device=DEVICE)
    s.index = torch.arange(33, device=DEVICE).expand(2, 2, 33)
    a = tasks.projections(s.seed[:, None], s.task, 33)
    y = s.project(seed_G=s.seed, precision="fp32")
    assert (y.transpose(2, 3) - a).abs().max() < 3e-5
    assert error(y.transpose(2, 3), a.double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_tabled_projections_are_their_twin(size, T, dtype):
    s = Sequences(size, T, num_tasks=7)
    table = torch.randn(3, 7, size, size, device=DEVICE).to(dtype)
    row = torch.tensor([2, 0], device=DEVICE)
    y = s.project(table_UxMxXxX=table, row_G=row, precision="fp32")
    assert error(y, s.expected(table[row[:, None], s.task])) < TOLERANCE["fp32"]
    y = s.project(table_UxMxXxX=table, row_G=row, precision="bf16", dtype=torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert error(y, s.expected(table[row[:, None], s.task])) < TOLERANCE["bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_noise_projections_are_their_twin(size, T, precision):
    s = Sequences(size, T)
    noise = tasks.noise_table(size, 11, DEVICE)
    expected = s.expected(tasks.noise_projections(s.seed[:, None], s.task, size, noise))
    y = s.project(seed_G=s.seed, noise=noise, precision=precision)
    assert error(y, expected) < TOLERANCE[precision]


def test_the_largest_seeds_and_tasks_are_drawn_right():
    s = Sequences(8, 4, B=4)
    s.seed = torch.tensor([0, 2**32 - 1], device=DEVICE)
    s.task = torch.tensor([[0, 2**32 - 1, 2**32, 2**63 - 1]] * 2, device=DEVICE)
    expected = s.expected(tasks.projections(s.seed[:, None], s.task, 8))
    assert error(s.project(seed_G=s.seed, precision="fp32"), expected) < TOLERANCE["fp32"]
