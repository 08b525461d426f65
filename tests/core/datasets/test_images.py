import dataclasses
import hashlib
import math
import os
import pickle
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metaphase.core.cell import Cell, ConfigError
from metaphase.core.datasets import glyphs, images, preprocessing
from metaphase.core.datasets.images import load_images
from metaphase.core.training.trainer import PackTrainer
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
    assert images.train.x_IxX.shape == (1437, 64)
    assert images.train.x_IxX.device.type == device.type
    assert abs(images.train.x_IxX.mean()) < 1e-4
    assert abs(images.train.x_IxX.std() - 1) < 1e-3
    assert images.heldout.commonest_class_share() < 0.11  # a fifth of each class
    # normalized with the training statistics, so the held-out ones are only nearly standard
    assert 1e-6 < abs(images.heldout.x_IxX.mean()) < 0.05


def test_a_subset_of_classes_and_average_pooling():
    pooled = load_images(small_cell(image_size=4, num_classes=5), "data", "cpu")
    assert pooled.train.y_I.unique().tolist() == [0, 1, 2, 3, 4]
    whole = load_images(small_cell(image_size=8, num_classes=5), "data", "cpu")
    by_hand = whole.train.x_IxX.view(-1, 4, 2, 4, 2).mean(dim=(2, 4)).flatten(1)
    by_hand = (by_hand - by_hand.mean()) / by_hand.std()
    torch.testing.assert_close(pooled.train.x_IxX, by_hand, rtol=0, atol=1e-4)


def write_cifar_layout(root, per_batch=40, seed=0):
    """Small files in CIFAR10's layout: five pickled batches, one more to test, rows of red, green
    and blue planes. Their checksums are whatever torchvision is told to expect."""
    generator = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    stored = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images = generator.integers(0, 256, (per_batch, 3 * 32 * 32), dtype=np.uint8)
        labels = [int(i) % 10 for i in range(per_batch)]
        stored[name] = pickle.dumps({"data": images, "labels": labels})
    stored["batches.meta"] = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    for name, content in stored.items():
        (folder / name).write_bytes(content)
    return {name: hashlib.md5(content).hexdigest() for name, content in stored.items()}


def write_svhn_layout(root, counts=(60, 40), seed=0):
    """Small files in SVHN's layout: MATLAB arrays of height x width x colour x count, and labels
    of which 10 means the digit 0."""
    from scipy.io import savemat

    generator = np.random.default_rng(seed)
    sums = {}
    for name, count in zip(("train", "test"), counts, strict=True):
        images = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        path = root / f"{name}_32x32.mat"
        savemat(path, {"X": images, "y": labels})
        sums[name] = hashlib.md5(path.read_bytes()).hexdigest()
    return sums


@pytest.fixture
def colour_root(tmp_path, monkeypatch):
    """A data root with small CIFAR10, SVHN and MNIST files that torchvision takes for whole."""
    from torchvision import datasets

    sums = write_cifar_layout(tmp_path)
    for listed in ("train_list", "test_list"):
        known = [[name, sums[name]] for name, _ in getattr(datasets.CIFAR10, listed)]
        monkeypatch.setattr(datasets.CIFAR10, listed, known)
    meta = {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    sums = write_svhn_layout(tmp_path)
    known = {
        split: [url, file, sums.get(split, md5)]
        for split, (url, file, md5) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", known)
    write_mnist_layout(tmp_path, "MNIST")
    return tmp_path


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


def test_colour_layouts_are_read_as_images(colour_root):
    with (colour_root / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        planes = pickle.load(file)["data"].reshape(-1, 3, 32, 32)
    x, white, _ = images.load_raw("CIFAR10", False, str(colour_root), 32, 3, 10)
    assert white == 255
    assert torch.equal(x, torch.from_numpy(planes))

    from scipy.io import loadmat

    stored = loadmat(colour_root / "test_32x32.mat")
    x, white, y = images.load_raw("SVHN", False, str(colour_root), 32, 3, 10)
    assert white == 255
    assert torch.equal(x[7], torch.from_numpy(stored["X"][..., 7]).permute(2, 0, 1))
    assert y.tolist() == [label % 10 for label in stored["y"][:, 0].tolist()]


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
    whole, white, labels = images.load_raw("CIFAR10", True, str(colour_root), 32, 3, 10)
    mean = (whole / white).mean(dim=1).flatten(1)
    expected = ((mean - mean.mean()) / mean.std())[labels.argsort(stable=True)]
    torch.testing.assert_close(grey.train.x_IxX, expected, rtol=0, atol=1e-4)


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


@pytest.mark.parametrize(("side", "size"), [(8, 4), (28, 14), (28, 9), (28, 28), (8, 28), (28, 32)])
def test_resizing_is_torchs_average_pooling_and_bilinear_interpolation(side, size):
    pixels = torch.randint(0, 256, (7, 3, side, side), generator=torch.Generator().manual_seed(0))
    for channels in (1, 3):
        ours = (
            preprocessing.resized(pixels.to(torch.uint8), 255, channels, size) / preprocessing.ONE
        )
        plain = pixels.double() / 255
        if channels == 1:
            plain = plain.mean(dim=1, keepdim=True)
        if size <= side:
            theirs = F.adaptive_avg_pool2d(plain, size)
        else:
            theirs = F.interpolate(plain, size=(size, size), mode="bilinear")
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0.5001 / preprocessing.ONE)


def test_mean_and_deviation_are_exact():
    """To the last place, of numbers whose squares a float32 sum would lose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(60_000, 65_536, (2500, 2, 3, 3), generator=generator, dtype=torch.int32)
    for channel, (mean, deviation) in enumerate(preprocessing.mean_and_deviation(x)):
        numbers = [Fraction(n) for n in x[:, channel].flatten().tolist()]
        exact = sum(numbers) / len(numbers)
        variance = sum((n - exact) ** 2 for n in numbers) / (len(numbers) - 1)
        assert mean == float(exact)
        assert deviation == math.sqrt(variance)


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


def test_images_that_are_all_blank_are_said(tmp_path):
    write_mnist_layout(tmp_path, "MNIST")
    for file in (tmp_path / "MNIST" / "raw").glob("*images*"):
        content = file.read_bytes()
        file.write_bytes(content[:16] + bytes(len(content) - 16))
    with pytest.raises(ConfigError, match="dataset: the training images of MNIST are all the same"):
        load_images(small_cell(unseen_datasets=("MNIST",)), tmp_path, "cpu")


FINGERPRINT = """
import hashlib, sys, torch
from metaphase.core.datasets.images import load_images
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


@pytest.fixture
def nothing_is_downloaded(monkeypatch):
    """What would be downloaded; torchvision's own code up to there."""
    from torchvision.datasets import cifar, mnist, svhn

    asked = []

    def no_network(*arguments, **options):
        asked.append(arguments)
        raise OSError("no route to host")

    monkeypatch.setattr(mnist, "download_and_extract_archive", no_network)
    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    monkeypatch.setattr(svhn, "download_url", no_network)
    return asked


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: images[:2], "isn't in the IDX format"),
        (lambda data: images[:6], "isn't in the IDX format"),
        (lambda data: images[:-1], "bytes instead of"),
        (lambda data: images[: len(images) // 2], "bytes instead of"),
        (lambda data: images + b"x", "bytes instead of"),
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
from metaphase.core.datasets.images import load_images
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
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), outputs
    assert len({out for out, _ in outputs}) == 1
    assert (source / "downloads").read_text() == "x"
