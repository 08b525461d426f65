import pytest
import torch

from metaphase.core.cell import Cell
from metaphase.core.datasets.images import load_images
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell
from tests.core.datasets.layouts import write_mnist_layout


@pytest.mark.slow
def test_a_generalizing_cell_remembers_random_inputs():
    """The quickstart's shapes; 5 inputs recur, each to be remembered."""
    cell = Cell(
        num_tasks=65536, seed=1, image_size=4, num_classes=5, key_size=8, learning_rate=3e-3,
        position_encoding="learned", eval_every=1500, steps=1500, eval_sequences=1024,
        unseen_datasets=("random",),
    )  # fmt: skip
    trainer = PackTrainer([cell])
    trainer.advance()
    statistics = {split: m.statistics_R for split, m in trainer.metrics.items()}
    assert statistics["unseen"]["improvement"][0].item() > 0.2  # it generalizes
    assert statistics["unseen/random"]["last"][0].item() > 0.95


def test_random_images_have_the_size_of_the_base_dataset(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    cell = small_cell(
        dataset="MNIST", image_size=16, num_classes=10, unseen_datasets=("random",), grayscale=True
    )
    images = load_images(cell, tmp_path, "cpu")
    assert images.unseen["random"].x_IxX.shape == (10_000, 256)


def test_random_images_are_gaussian_and_recur():
    cell = small_cell(dataset="random", image_size=28, num_classes=10)
    images = load_images(cell, "data", "cpu")
    distinct = []
    for split, count in ((images.train, 10_000), (images.heldout, 10_000)):
        assert split.x_IxX.shape == (count, 784)
        x_CxX = split.x_IxX[split.first_C]
        assert torch.equal(split.x_IxX, x_CxX.repeat_interleave(count // 10, dim=0))
        assert split.y_I.tolist() == sorted(list(range(10)) * (count // 10))
        distinct.append(x_CxX)
    x = torch.cat(distinct)
    assert abs((x**4).mean() - 3) < 0.25  # a Gaussian's kurtosis; standard error 0.08
    similarity = torch.corrcoef(x) - torch.eye(20)
    assert similarity.abs().max() < 5 / 28  # standard error 1 / 28
