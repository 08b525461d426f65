import os
import pickle
import subprocess
import sys

import pytest
import torch

from metaphase.core.cell import ConfigError
from metaphase.core.datasets.images import load_images, load_raw
from tests.conftest import small_cell
from tests.core.datasets.layouts import write_mnist_layout


def test_colour_layouts_are_read_as_images(colour_root):
    with (colour_root / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        planes = pickle.load(file)["data"].reshape(-1, 3, 32, 32)
    x, white, _ = load_raw("CIFAR10", False, str(colour_root), 32, 3, 10)
    assert white == 255
    assert torch.equal(x, torch.from_numpy(planes))

    from scipy.io import loadmat

    stored = loadmat(colour_root / "test_32x32.mat")
    x, white, y = load_raw("SVHN", False, str(colour_root), 32, 3, 10)
    assert white == 255
    assert torch.equal(x[7], torch.from_numpy(stored["X"][..., 7]).permute(2, 0, 1))
    assert y.tolist() == [label % 10 for label in stored["y"][:, 0].tolist()]


def test_torchvision_layout_works_without_a_download(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    write_mnist_layout(tmp_path, "FashionMNIST", seed=1)
    cell = small_cell(
        dataset="MNIST", image_size=14, num_classes=10, unseen_datasets=("FashionMNIST", "digits")
    )
    images = load_images(cell, tmp_path, "cpu")
    assert images.train.x_IxX.shape == (300, 196)
    assert images.heldout.y_I.tolist() == [i // 10 for i in range(100)]
    assert images.heldout.count_C.tolist() == [10] * 10
    assert images.heldout.first_C.tolist() == list(range(0, 100, 10))
    assert images.unseen["FashionMNIST"].x_IxX.shape == (100, 196)
    assert images.unseen["digits"].x_IxX.shape == (360, 196)  # enlarged from 8 x 8


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


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[:2], "isn't in the IDX format"),
        (lambda data: data[:6], "isn't in the IDX format"),
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data[: len(data) // 2], "bytes instead of"),
        (lambda data: data + b"x", "bytes instead of"),
        (lambda data: b"<html>not found</html>", "isn't in the IDX format"),
    ],
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_of_mnist_is_named(damage, why, file, tmp_path, nothing_is_downloaded):
    write_mnist_layout(tmp_path, "MNIST")
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="remove what is damaged") as error:
        load_images(small_cell(dataset="MNIST"), tmp_path, "cpu")
    assert f"dataset: {path} of MNIST " in str(error.value)
    assert why in str(error.value)
    assert "download failed" not in str(error.value)
    assert "\n" not in str(error.value)
    assert nothing_is_downloaded == []


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize(
    ("name", "file"),
    [("CIFAR10", "cifar-10-batches-py/data_batch_3"), ("SVHN", "train_32x32.mat")],
)
def test_a_cut_file_of_the_colour_sets_is_named(
    size, name, file, colour_root, nothing_is_downloaded
):
    os.truncate(colour_root / file, size)
    with pytest.raises(ConfigError) as error:
        load_images(small_cell(dataset=name, image_size=8), colour_root, "cpu")
    assert f"dataset: {colour_root / file} of {name} is {'cut' if size else 'empty'}" in str(
        error.value
    )
    assert nothing_is_downloaded == []


def test_a_cut_archive_is_named_where_it_cant_be_fetched(tmp_path, nothing_is_downloaded):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    archive = raw / "train-images-idx3-ubyte.gz"
    archive.write_bytes(b"\x1f\x8b")
    with pytest.raises(ConfigError, match="is damaged or not the original") as error:
        load_images(small_cell(dataset="MNIST"), tmp_path, "cpu")
    assert f"dataset: {archive} of MNIST" in str(error.value)
    assert nothing_is_downloaded != []


def test_images_and_labels_that_dont_fit_are_said(tmp_path, nothing_is_downloaded):
    write_mnist_layout(tmp_path, "MNIST")
    write_mnist_layout(tmp_path / "other", "MNIST", counts=(200, 100))
    labels = "MNIST/raw/train-labels-idx1-ubyte"
    (tmp_path / labels).write_bytes((tmp_path / "other" / labels).read_bytes())
    with pytest.raises(ConfigError, match="300 images, 200 labels"):
        load_images(small_cell(dataset="MNIST"), tmp_path, "cpu")
    assert nothing_is_downloaded == []


DOWNLOADER = """
import shutil, sys, time
from pathlib import Path
from torchvision import datasets
from metaphase.core.datasets.images import load_images, load_raw
from tests.conftest import small_cell

source, root = map(Path, sys.argv[1:])

def download(self):
    if self._check_exists():
        return
    with (source / "downloads").open("a") as file:
        file.write("x")
    for path in sorted((source / "MNIST" / "raw").iterdir()):  # all are there long before whole
        target = root / "MNIST" / "raw" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")
    time.sleep(1)
    shutil.copytree(source / "MNIST", root / "MNIST", dirs_exist_ok=True)

datasets.MNIST.download = download
print(load_images(small_cell(dataset="MNIST"), root, "cpu").train.x_IxX.sum().item())
"""


def test_a_dataset_is_fetched_once_a_node_while_others_wait(tmp_path):
    source, root = tmp_path / "source", tmp_path / "root"
    write_mnist_layout(source, "MNIST")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DOWNLOADER, source, root],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), outputs
    assert len({out for out, _ in outputs}) == 1
    assert (source / "downloads").read_text() == "x"
