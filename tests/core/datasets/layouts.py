"""Small files in the layouts that torchvision reads."""

import hashlib
import pickle
import struct

import numpy as np


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
