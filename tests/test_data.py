import struct

import numpy as np
import pytest
import torch

from core.config import ConfigError
from core.data import load_images
from tests.conftest import small_cell


def write_mnist_layout(root, name, counts=(300, 100), side=28, seed=0):
    """Small files in the layout torchvision's MNIST loaders read without a download."""
    generator = np.random.default_rng(seed)
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        images = generator.integers(0, 256, (count, side, side), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, side, side)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, count)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def test_digits(device):
    cell = small_cell(image_size=8, num_classes=10)
    images = load_images(cell, "data", device)
    assert (images.train.count, images.heldout.count) == (1437, 360)
    assert images.train.x_NxX.shape == (1437, 64)
    assert images.train.x_NxX.device.type == device.type
    assert abs(images.train.x_NxX.mean()) < 1e-4
    assert abs(images.train.x_NxX.std() - 1) < 1e-3
    assert images.heldout.commonest_class_share() < 0.11  # a fifth of each class
    # normalized with the training statistics, so the held-out ones are only nearly standard
    assert 1e-6 < abs(images.heldout.x_NxX.mean()) < 0.05


def test_a_subset_of_classes_and_average_pooling():
    pooled = load_images(small_cell(image_size=4, num_classes=5), "data", "cpu")
    assert pooled.train.y_N.unique().tolist() == [0, 1, 2, 3, 4]
    whole = load_images(small_cell(image_size=8, num_classes=5), "data", "cpu")
    by_hand = whole.train.x_NxX.view(-1, 4, 2, 4, 2).mean(dim=(2, 4)).flatten(1)
    by_hand = (by_hand - by_hand.mean()) / by_hand.std()
    torch.testing.assert_close(pooled.train.x_NxX, by_hand, rtol=0, atol=1e-4)


def test_torchvision_layout_works_without_a_download(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    write_mnist_layout(tmp_path, "FashionMNIST", seed=1)
    cell = small_cell(
        dataset="MNIST", image_size=14, num_classes=10, unseen_datasets=("FashionMNIST", "digits")
    )
    images = load_images(cell, tmp_path, "cpu")
    assert images.train.x_NxX.shape == (300, 196)
    assert images.heldout.y_N.tolist() == [i % 10 for i in range(100)]
    assert images.unseen["FashionMNIST"].x_NxX.shape == (100, 196)
    assert images.unseen["digits"].x_NxX.shape == (360, 196)  # enlarged from 8 x 8


def test_random_images_have_the_size_of_the_base_dataset(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    cell = small_cell(
        dataset="MNIST", image_size=16, num_classes=10, unseen_datasets=("random",), grayscale=True
    )
    images = load_images(cell, tmp_path, "cpu")
    assert images.unseen["random"].x_NxX.shape == (10_000, 256)


def test_random_images_are_gaussian_and_fixed():
    cell = small_cell(dataset="random", image_size=3, num_classes=10)
    images = load_images(cell, "data", "cpu")
    x = images.train.x_NxX
    assert x.shape == (60_000, 9)
    assert abs((x**4).mean() - 3) < 0.05  # a Gaussian's kurtosis
    assert torch.cdist(x[:500], images.heldout.x_NxX[:500]).min() > 0.01
    counts = torch.bincount(images.train.y_N)
    assert counts.min() > 5500


def test_a_dataset_that_cant_be_had_is_said_in_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    def no_network(*arguments, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(datasets.KMNIST, "download", no_network)
    with pytest.raises(
        ConfigError, match=r"dataset: KMNIST isn't in data root .* no route"
    ) as error:
        load_images(small_cell(dataset="KMNIST", num_classes=10), tmp_path, "cpu")
    assert "\n" not in str(error.value)


def test_too_few_images_for_a_sequence_is_said(tmp_path):
    write_mnist_layout(tmp_path, "MNIST", counts=(300, 20))
    with pytest.raises(ConfigError, match="sequence_length: 30 is more than the 20 images"):
        load_images(
            small_cell(dataset="MNIST", sequence_length=30, num_classes=10), tmp_path, "cpu"
        )
