import torch

from metaphase.core.cell import Cell
from metaphase.core.datasets import glyphs
from metaphase.core.datasets.images import load_images
from tests.conftest import small_cell


def test_glyphs_are_drawn_from_counters():
    classes, numbers = torch.tensor([0, 0, 3, 199]), torch.tensor([0, 1, 0, 249])
    together = glyphs.draw(classes, numbers)
    assert together.shape == (4, 28, 28)
    assert together.dtype == torch.uint8
    for i in range(4):
        assert torch.equal(glyphs.draw(classes[i : i + 1], numbers[i : i + 1])[0], together[i])
    assert (together.flatten(1).max(dim=1).values > 204).all()  # there is ink
    assert not torch.equal(together[0], together[1])


def test_glyphs_of_a_class_are_alike_and_of_many_classes_different():
    """A nearest neighbour that has seen 10 drawings of each class tells most of 100 apart; on
    digits, with 10 classes, it gets 90%."""
    classes, seen = torch.arange(100).repeat_interleave(10), torch.arange(10).repeat(100)
    known = glyphs.draw(classes, seen).flatten(1) / 255.0
    asked = glyphs.draw(classes, 200 + seen).flatten(1) / 255.0
    found = classes[torch.cdist(asked, known).argmin(dim=1)]
    accuracy = (found == classes).float().mean().item()
    assert 0.4 < accuracy < 0.95
    same = (known.view(100, 10, -1)[:, 0] - known.view(100, 10, -1)[:, 1]).norm(dim=1)
    assert same.min() > 0.5


def test_glyphs_have_many_classes_and_use_10_unless_told():
    assert Cell(dataset="glyphs").num_classes == 10
    images = load_images(small_cell(dataset="glyphs", num_classes=20, image_size=14), "data", "cpu")
    assert images.train.x_IxX.shape == (20 * 200, 14 * 14)
    assert torch.bincount(images.heldout.y_I).tolist() == [50] * 20
    Cell(dataset="glyphs", num_classes=200, sequence_length=100)
