import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from metaphase.core.cell import ConfigError
from metaphase.core.datasets.images import load_images, load_raw
from tests.conftest import small_cell
from tests.core.datasets.layouts import write_mnist_layout


def test_digits(device):
    cell = small_cell(image_size=8, num_classes=10)
    images = load_images(cell, "data", device)
    assert (images.train.count, images.heldout.count) == (1437, 360)
    assert images.train.x_IxX.shape == (1437, 64)
    assert images.train.x_IxX.device.type == device.type
    assert abs(images.train.x_IxX.mean()) < 1e-4
    assert abs(images.train.x_IxX.std() - 1) < 1e-3
    assert images.heldout.commonest_class_share() < 0.11  # a fifth of each class
    # normalized with the training statistics, so the held-out ones are only nearly standard
    assert 1e-6 < abs(images.heldout.x_IxX.mean()) < 0.05


def test_digits_leave_the_environment_as_it_is():
    code = (
        "import os; os.environ.pop('KMP_INIT_AT_FORK', None)\n"
        "os.environ['KMP_DUPLICATE_LIB_OK'] = 'mine'\n"
        "from metaphase.core.datasets import digits\n"
        "before = dict(os.environ)\n"
        "digits.load(True)\n"
        "assert before == dict(os.environ), set(os.environ) - set(before)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_subset_of_classes_and_average_pooling():
    pooled = load_images(small_cell(image_size=4, num_classes=5), "data", "cpu")
    assert pooled.train.y_I.unique().tolist() == [0, 1, 2, 3, 4]
    whole = load_images(small_cell(image_size=8, num_classes=5), "data", "cpu")
    by_hand = whole.train.x_IxX.view(-1, 4, 2, 4, 2).mean(dim=(2, 4)).flatten(1)
    by_hand = (by_hand - by_hand.mean()) / by_hand.std()
    torch.testing.assert_close(pooled.train.x_IxX, by_hand, rtol=0, atol=1e-4)


OTHERS = ("MNIST", "CIFAR10", "SVHN", "digits", "random", "glyphs")


@pytest.mark.parametrize("base", ["CIFAR10", "SVHN"])
def test_trained_on_colour_tested_on_all(colour_root, base):
    cell = small_cell(dataset=base, image_size=None, num_classes=10, unseen_datasets=OTHERS)
    images = load_images(cell, colour_root, "cpu")
    assert images.train.x_IxX.shape[1] == 3 * 32 * 32
    by_channel = images.train.x_IxX.unflatten(1, (3, -1))
    torch.testing.assert_close(by_channel.mean(dim=(0, 2)), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(by_channel.std(dim=(0, 2)), torch.ones(3), rtol=0, atol=1e-3)
    for name in OTHERS:
        assert images.unseen[name].x_IxX.shape[1] == 3 * 32 * 32
        assert images.unseen[name].x_IxX.isfinite().all()
    red, green, blue = images.unseen["random"].x_IxX.unflatten(1, (3, -1)).unbind(1)
    inputs = images.unseen["random"].first_C
    colours = torch.stack([red, green, blue])[:, inputs].flatten(1)  # standard error 0.01
    assert colours.corrcoef().fill_diagonal_(0).abs().max() < 0.05
    # what was grey has three equal channels, before each is normalized by its own statistics
    grey = images.unseen["MNIST"].x_IxX.unflatten(1, (3, -1))
    assert grey.flatten(0, 1).shape[1] == 32 * 32
    assert torch.stack([g.flatten() for g in grey.unbind(1)]).corrcoef().min() > 0.999


def test_trained_on_grey_tested_on_colour(colour_root):
    cell = small_cell(dataset="MNIST", image_size=None, num_classes=10, unseen_datasets=OTHERS)
    images = load_images(cell, colour_root, "cpu")
    for name in OTHERS:
        assert images.unseen[name].x_IxX.shape[1] == 28 * 28
    grey = load_images(
        small_cell(dataset="CIFAR10", image_size=None, num_classes=10, grayscale=True),
        colour_root,
        "cpu",
    )
    whole, white, labels = load_raw("CIFAR10", True, str(colour_root), 32, 3, 10)
    mean = (whole / white).mean(dim=1).flatten(1)
    expected = ((mean - mean.mean()) / mean.std())[labels.argsort(stable=True)]
    torch.testing.assert_close(grey.train.x_IxX, expected, rtol=0, atol=1e-4)


def test_every_dataset_has_its_own_normalization_unless_asked_otherwise(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")  # mean 0.5, deviation 0.29 before averaging
    others = ("MNIST", "glyphs", "random")
    cell = small_cell(unseen_datasets=others)
    own = load_images(cell, tmp_path, "cpu")
    for name in others:
        assert abs(own.unseen[name].x_IxX.mean()) < 0.15  # `random` has 10 x 16 numbers
        assert abs(own.unseen[name].x_IxX.std() - 1) < 0.1
    base = load_images(dataclasses.replace(cell, normalization="base"), tmp_path, "cpu")
    assert torch.equal(base.heldout.x_IxX, own.heldout.x_IxX)
    assert base.unseen["random"].x_IxX.std() > 3
    assert base.unseen["MNIST"].x_IxX.std() < 0.5


def test_images_that_are_all_blank_are_said(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    for file in (tmp_path / "MNIST" / "raw").glob("*images*"):
        content = file.read_bytes()
        file.write_bytes(content[:16] + bytes(len(content) - 16))
    with pytest.raises(ConfigError, match="dataset: the training images of MNIST are all the same"):
        load_images(small_cell(unseen_datasets=("MNIST",)), tmp_path, "cpu")


FINGERPRINT = """
import hashlib, sys, torch
from metaphase.core.datasets.images import load_images, load_raw
from tests.conftest import small_cell

torch.set_num_threads(int(sys.argv[1]))
others = ("digits", "glyphs", "random")
for size in (9, 30):  # of 8, 28 and 28 pixels
    cell = small_cell(dataset="MNIST", image_size=size, num_classes=2, unseen_datasets=others)
    images = load_images(cell, sys.argv[2], "cpu")
    for part in (images.train, images.heldout, *images.unseen.values()):
        print(hashlib.sha256(part.x_IxX.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_images_are_the_same_whatever_the_vector_width_and_the_number_of_threads(tmp_path):
    write_mnist_layout(tmp_path, "MNIST", counts=(3000, 500))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FINGERPRINT, threads, tmp_path],
            env={**os.environ, "ATEN_CPU_CAPABILITY": width, "MKL_CBWR": products},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads, width, products in [("1", "default", "COMPATIBLE"), ("2", "avx2", "AVX2")]
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in started]
    assert len(outputs[0]) == 10
    assert outputs[0] == outputs[1]


def test_too_few_images_for_a_sequence_is_said(tmp_path):
    write_mnist_layout(tmp_path, "MNIST", counts=(300, 20))
    with pytest.raises(ConfigError, match="sequence_length: 30 is more than the 20 images"):
        load_images(
            small_cell(dataset="MNIST", sequence_length=30, num_classes=10), tmp_path, "cpu"
        )
