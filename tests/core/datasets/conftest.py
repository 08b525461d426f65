import pytest

from tests.core.datasets.layouts import write_cifar_layout, write_mnist_layout, write_svhn_layout


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
