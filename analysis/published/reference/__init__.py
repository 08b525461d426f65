"""Values published elsewhere, shipped with the package: see README.md beside this file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FIGURE2 = "kirsch2022-figure2"
TABLE2 = "kirsch2022-table2"
NAMES = (FIGURE2, TABLE2)

DATASET = "MNIST"  # that the paper's models are meta-trained on

# What the paper says of its settings, as fields of core.cell.Cell.
SETTINGS = {
    "dataset": DATASET,
    "image_size": 28,
    "num_classes": 10,
    "sequence_length": 100,
    "num_layers": 4,
    "num_heads": 8,
    "key_size": 32,
    "mlp_ratio": 4,
    "batch_size": 512,
}
NOT_STATED = ("steps", "learning_rate", "warmup_steps")

# Share of the commonest digit, 1, in MNIST's 10,000 test images: always guessing it is chance where
# the labels are known.
CHANCE = 0.1135
# On new tasks: naming the commonest of the 99 labels before the last position
# (`core.label_counts.expected_accuracy` of those images).
LEVEL = 0.102


def load_figure2() -> pd.DataFrame:
    """Figure 2, Transformer: accuracy at the last position, a row a split and cell.

    Returns:
        split (seen, unseen), model_size, num_tasks, accuracy.
    """
    return _read("kirsch2022_figure2_transformer.csv")


def load_table2() -> pd.DataFrame:
    """Table 2: accuracy after 99 examples, a row a method and dataset it is meta-tested on.

    Returns:
        method, inductive_bias, dataset (named as in core.datasets.DATASETS), accuracy.
    """
    wide = _read("kirsch2022_table2.csv")
    keys = ["method", "inductive_bias"]
    return wide.melt(keys, var_name="dataset", value_name="accuracy").replace(
        {"dataset": _DATASETS}
    )


_DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "svhn": "SVHN",
}


def _read(name: str) -> pd.DataFrame:
    import pandas as pd  # takes half a second, and command lines want the names alone

    with resources.files(__name__).joinpath(name).open("rb") as file:
        return pd.read_csv(file)
