"""The words and columns of a results tree, shared by all packages. Imports nothing heavy.

A sweep's results lie in `<root>/<sweep>/{cells,history,curves}/<cell_id>.parquet`; the tables'
columns are listed in results/README.md.
"""

from __future__ import annotations

import re

# Splits (design: "Splits"). Meta-test on another base dataset is the split `unseen/<dataset>`.
TRAIN = "train"  # seen tasks, training images
SEEN = "seen"  # seen tasks, held-out images
UNSEEN = "unseen"  # new tasks, held-out images
SPLITS = (TRAIN, SEEN, UNSEEN)
# Where `in_weights` asks for them: seen tasks, held-out images, but each sequence shows labels of a
# permutation of its own. What is right is the task's own label, or the one that is shown.
IN_WEIGHTS = "in_weights"
IN_CONTEXT = "in_context"
RELABELLED = (IN_WEIGHTS, IN_CONTEXT)

# Statistics of a split, each an accuracy with its standard error over sequences.
FIRST = "first"  # accuracy at position 1, where no example has been seen
LAST = "last"  # mean accuracy over the last tenth of the positions
IMPROVEMENT = "improvement"  # last - first within the same sequence
STATISTICS = (FIRST, LAST, IMPROVEMENT)

# Of a split, where the task family has predictors.
RELATIVE = "relative_distance"  # where the model is between M, at 0, and G, at 1
OFF_LINE = "off_line"  # how far it is from the line through both


def with_standard_errors(names: tuple[str, ...]) -> tuple[str, ...]:
    """("first",) -> ("first", "first_se"): each statistic's column and that of its error."""
    return tuple(column for name in names for column in (name, f"{name}_se"))


def behind(splits: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, ...]:
    """What the cells table calls columns of the history table: they stand behind a split's name."""
    return tuple(f"{split}_{column}" for split in splits for column in columns)


def statistics_columns(splits: tuple[str, ...]) -> tuple[str, ...]:
    """The cells table's columns of statistics of these splits."""
    return behind(splits, with_standard_errors(STATISTICS))


# Columns of cells that were compared with their family's predictors (core.evaluation.distances), as
# the history table has them and behind a split's name: numbers, null where they can't be told.
OF_PREDICTORS = re.compile(
    rf"(({'|'.join((*SPLITS, *RELABELLED))})_)?"
    rf"(distance_\w+|loss_\w+|{RELATIVE}\w*|{OFF_LINE}\w*)"
)

# status column of the cells table
DONE = "done"  # trained for all its steps
DIVERGED = "diverged"  # its loss became non-finite; frozen from `diverged_at` on
FAILED = "failed"  # could not be trained; `error` says why

HISTORY_COLUMNS = (
    "cell_id",
    "step",
    "split",
    "loss",
    *with_standard_errors(STATISTICS),
    "n",
)
CURVES_COLUMNS = ("cell_id", "split", "position", "accuracy", "accuracy_se", "n")

# The settings that evaluation sequences of new tasks depend on, and so do
# `core.evaluation.yardsticks`.
YARDSTICK_SETTINGS = (
    "dataset",
    "image_size",
    "grayscale",
    "num_classes",
    "normalization",
    "sequence_length",
    "seed",
)
YARDSTICK_COLUMNS = (
    *YARDSTICK_SETTINGS,
    "split",
    "yardstick",
    "position",
    "accuracy",
    "accuracy_se",
    "n",
)

RELABELLED_COLUMNS = (
    *behind(RELABELLED, ("loss",)),
    *statistics_columns(RELABELLED),
)
# Columns of the cells table beside every field of `core.cell.Cell`.
CELL_RESULT_COLUMNS = (
    "status",
    "error",
    "diverged_at",
    "plateau_steps",
    "steps_trained",
    "num_parameters",
    "state_size",
    "chance",
    "unseen_level",
    "guess_loss",
    "n",
    *behind(SPLITS, ("loss",)),
    *statistics_columns(SPLITS),
    *RELABELLED_COLUMNS,
    "wall_seconds",
    "device",
    "versions",
    "numerics",
    "own_settings",  # names of the columns that are settings of plug-ins
    "switched_off",  # fast paths that didn't compute it, and why (core.fast_paths)
)


def to_column(value: object) -> object:
    """A setting as its column holds it: a list of names is one text, "MNIST,KMNIST", by which any
    reader can compare, group and drop duplicates. `core.cell.Cell` takes it as it is."""
    return ",".join(value) if isinstance(value, (list, tuple)) else value


def bounds(column: str) -> tuple[float, float] | None:
    """The least and the greatest value that a result's column may have; None: any."""
    end = column.rpartition("_")[2]
    if end == "se" or end in ("accuracy", FIRST, LAST, "chance", "level"):
        return 0.0, 1.0
    if end == IMPROVEMENT:
        return -1.0, 1.0
    if column in ("step", "steps_trained", "diverged_at", "plateau_steps"):
        return 0, 2**31
    if column in ("n", "position", "numerics"):
        return 1, 2**53
    return None
