"""What a cell is: every setting that influences a result, checked, with its identity.

Plain Python on purpose: `sweeps` reads it without torch, and it can't import Ray.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

MAX_NUMBERS = 10**12  # of a model, of a step: what no device holds
MAX_EVALUATIONS = 10**5  # of a cell: its history is kept in memory
# Revision of the numbers: raised whenever a cell's results change by a bit on the machine that they
# were made on. Results and checkpoints that don't say theirs are of revision 1.
NUMERICS = 2

MAX_TASKS = 2**32  # seen tasks are numbered 0 ... MAX_TASKS - 1; unseen ones start there


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a base dataset that can be known without loading it."""

    image_size: int  # side of its square images, pixels
    channels: int
    num_classes: int
    num_train: int  # images in its training split
    num_heldout: int  # images in its held-out split
    default_classes: int | None = None  # used unless more are asked for; None: all


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(8, 1, 10, 1437, 360),  # scikit-learn's, split 80:20
    "MNIST": DatasetInfo(28, 1, 10, 60_000, 10_000),
    "FashionMNIST": DatasetInfo(28, 1, 10, 60_000, 10_000),
    "KMNIST": DatasetInfo(28, 1, 10, 60_000, 10_000),
    "CIFAR10": DatasetInfo(32, 3, 10, 50_000, 10_000),
    "SVHN": DatasetInfo(32, 3, 10, 73_257, 26_032),
    "random": DatasetInfo(28, 1, 10, 10_000, 10_000),  # core.datasets.images._draw_random
    "glyphs": DatasetInfo(
        28, 1, 200, 40_000, 10_000, 10
    ),  # characters drawn by core.datasets.glyphs
}

TokenFormat = Literal["shifted", "interleaved"]
PositionEncoding = Literal["rotary", "learned", "none"]
Normalization = Literal["own", "base"]
Precision = Literal["fp32", "tf32", "bf16"]
Architecture = Literal["transformer", "lstm", "fast_weights", "linear_attention", "mlp"]

# Of the settings that only some architectures use, those that each does. The others are set to
# `UNUSED` whatever was said, so that they can't make two cells of one.
ARCHITECTURE_SETTINGS: dict[str, tuple[str, ...]] = {
    "transformer": ("num_heads", "key_size", "mlp_ratio", "position_encoding"),
    "lstm": (),
    "fast_weights": ("num_heads", "key_size"),
    "linear_attention": ("num_heads", "key_size", "mlp_ratio"),
    "mlp": ("mlp_ratio",),
}
UNUSED = {"num_heads": 0, "key_size": 0, "mlp_ratio": 0, "position_encoding": "none"}

# What a head reads from an outer-product memory passes a layer norm over its key_size numbers: of
# one nothing is left, and of two only which is the larger.
LEAST_KEY_SIZE = {"fast_weights": 3, "linear_attention": 3}


class ConfigError(ValueError):
    """A setting that can't be used. The message names the key, the value and what is allowed."""


def _field(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid, and all of its settings. Immutable; checked when it is made.

    `None` for `image_size`, `num_classes` or `key_size` means "what follows from the others"; it is
    resolved at once, so a cell never holds None and its identity doesn't depend on how it was
    said. Neither does it depend on settings that its architecture doesn't use: see `UNUSED`.

    Raises:
        ConfigError: a value is impossible, alone or together with the others.
    """

    architecture: Architecture = _field("transformer", "sequence model")
    model_size: int = _field(32, "width of the residual stream, of hidden states")
    num_tasks: int = _field(1, "number of tasks N to train on, up to 2^32")
    seed: int = _field(0, "seed of the tasks, the batches and the initial weights")

    dataset: str = _field("digits", f"base dataset: {', '.join(DATASETS)}")
    image_size: int = _field(None, "side the images are resized to, pixels; null: as they are")
    grayscale: bool = _field(False, "average the colour channels")
    num_classes: int = _field(None, "use the first this many classes; null: all, of glyphs 10")
    unseen_datasets: tuple[str, ...] = _field((), "further datasets for splits unseen/<dataset>")
    normalization: Normalization = _field("own", "whose training images normalize a further set")

    identity_share: float = _field(0.0, "share of the seen tasks that keep labels as they are")
    identity_steps: int = _field(0, "steps over which identity_share falls to 0; 0: it stays")

    sequence_length: int = _field(16, "labelled examples in a sequence, T")
    token_format: TokenFormat = _field("interleaved", "how examples become tokens")

    num_layers: int = _field(2, "blocks, layers")
    num_heads: int = _field(2, "heads of attention or of the memory")
    key_size: int = _field(None, "size of a head's keys and values; null: model_size / num_heads")
    mlp_ratio: int = _field(4, "hidden units of a block's MLP over model_size")
    position_encoding: PositionEncoding = _field("rotary", "how attention knows positions")

    steps: int = _field(1000, "meta-training steps")
    batch_size: int = _field(32, "sequences in a step's batch")
    learning_rate: float = _field(1e-3, "Adam's learning rate after warm-up")
    mup_base_width: int = _field(0, "width at which all maps have learning_rate (muP); 0: at all")
    warmup_steps: int = _field(100, "steps over which the learning rate rises linearly")
    adam_beta1: float = _field(0.9, "Adam's decay of the first moment")
    adam_beta2: float = _field(0.999, "Adam's decay of the second moment")
    adam_epsilon: float = _field(1e-8, "Adam's epsilon")
    precision: Precision = _field("fp32", "of matrix products; weights and sums stay float32")

    eval_every: int = _field(250, "steps between evaluations (and checkpoints)")
    eval_sequences: int = _field(512, "sequences a split is evaluated on")
    stop_when_decided: bool = _field(False, "stop before `steps` once the phase is settled")

    def __post_init__(self) -> None:
        self._check_types()
        self._resolve()
        self._check_values()
        self._check_size()

    def _check_types(self) -> None:
        for f, kind, choices in _field_types():
            value = getattr(self, f.name)
            if choices:
                if value not in choices:
                    raise ConfigError(f"{f.name}: {value!r} is not one of {', '.join(choices)}")
            elif f.name == "unseen_datasets":
                names = list(filter(None, value.split(","))) if isinstance(value, str) else value
                if not isinstance(names, (list, tuple)) or not all(
                    isinstance(name, str) for name in names
                ):
                    raise ConfigError(f"{f.name}: {value!r} is not a list of dataset names")
                if len(set(names)) < len(names):
                    raise ConfigError(f"{f.name}: {value!r} names a dataset twice")
                object.__setattr__(self, f.name, tuple(names))
            elif value is None and f.default is None:
                pass
            elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
                try:
                    object.__setattr__(self, f.name, float(value) + 0.0)  # -0.0 is 0.0
                except OverflowError:
                    raise ConfigError(f"{f.name}: {value!r} is not a number") from None
            elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                name = {int: "a whole number", float: "a number", bool: "true or false"}
                whole = kind is int and isinstance(value, float) and value.is_integer()
                meant = f"; write {value:.0f}" if whole else ""
                raise ConfigError(f"{f.name}: {value!r} is not {name.get(kind, 'a text')}{meant}")

    def _resolve(self) -> None:
        for key, names in (("dataset", (self.dataset,)), ("unseen_datasets", self.unseen_datasets)):
            for name in names:
                if name not in DATASETS:
                    raise ConfigError(f"{key}: {name!r} is not one of {', '.join(DATASETS)}")
        for key, value in UNUSED.items():
            if key not in ARCHITECTURE_SETTINGS[self.architecture]:
                object.__setattr__(self, key, value)
        if not self.unseen_datasets:
            object.__setattr__(self, "normalization", "own")
        if self.identity_share == 0:
            object.__setattr__(self, "identity_steps", 0)
        info = DATASETS[self.dataset]
        if self.image_size is None:
            object.__setattr__(self, "image_size", info.image_size)
        if self.num_classes is None:
            object.__setattr__(self, "num_classes", info.default_classes or info.num_classes)
        if self.key_size is None:
            if self.num_heads > 0 and self.model_size % self.num_heads:
                raise ConfigError(
                    f"num_heads: {self.num_heads} heads don't divide model_size {self.model_size}; "
                    "choose a divisor or set key_size"
                )
            object.__setattr__(self, "key_size", self.model_size // max(self.num_heads, 1))

    def _check_values(self) -> None:
        info = DATASETS[self.dataset]
        whole = {  # key: (least, greatest or None)
            "model_size": (2, 2**16),  # layer norm of one number is 0
            "num_tasks": (1, MAX_TASKS),
            "seed": (0, 2**32 - 1),
            "identity_steps": (0, 2**31),
            "image_size": (1, 2**8),
            "num_classes": (2, info.num_classes),
            "sequence_length": (2, None),
            "num_layers": (1, 1000),
            "num_heads": (1, 2**12),
            "key_size": (1, 2**12),
            "mlp_ratio": (1, 2**8),
            "steps": (1, 2**31),
            "batch_size": (1, 2**20),
            "mup_base_width": (0, 2**16),
            "warmup_steps": (0, 2**31),
            "eval_every": (1, 2**31),
            "eval_sequences": (2, 2**24),
        }
        unused = UNUSED.keys() - set(ARCHITECTURE_SETTINGS[self.architecture])
        for key, (least, greatest) in whole.items():
            value = getattr(self, key)
            if key in unused:
                continue
            if value < least or (greatest is not None and value > greatest):
                allowed = f"{least} to {greatest}" if greatest is not None else f"{least} or more"
                raise ConfigError(f"{key}: {value} is out of range; allowed: {allowed}")
        if self.steps // self.eval_every > MAX_EVALUATIONS:
            raise ConfigError(
                f"eval_every: {self.eval_every} makes {self.steps // self.eval_every} evaluations "
                f"of {self.steps} steps; allowed: {MAX_EVALUATIONS}"
            )
        for key, low, high in (
            ("learning_rate", 0.0, float("inf")),
            ("adam_epsilon", 0.0, float("inf")),
            ("adam_beta1", 0.0, 1.0),
            ("adam_beta2", 0.0, 1.0),
        ):
            value = getattr(self, key)
            least_ok = value >= low if key.startswith("adam_beta") else value > low
            if not (least_ok and value < high):
                raise ConfigError(f"{key}: {value} is out of range; allowed: {low} to {high}")
        if not 0.0 <= self.identity_share <= 1.0:
            raise ConfigError(
                f"identity_share: {self.identity_share} is out of range; allowed: 0 to 1"
            )
        least = LEAST_KEY_SIZE.get(self.architecture, 1)
        if self.key_size < least and "key_size" not in unused:
            raise ConfigError(
                f"key_size: {self.key_size} (of {self.num_heads} heads, model_size "
                f"{self.model_size}) leaves {self.architecture} no memory but signs; allowed: "
                f"{least} or more"
            )
        if self.position_encoding == "rotary" and self.key_size % 2:
            raise ConfigError(
                f"key_size: {self.key_size} is odd; rotary positions rotate pairs, so choose an "
                "even key_size or position_encoding: learned"
            )
        fewest = min(info.num_train, info.num_heldout) * self.num_classes // info.num_classes // 2
        if self.sequence_length > fewest:
            raise ConfigError(
                f"sequence_length: {self.sequence_length} is out of range; {self.dataset} with "
                f"{self.num_classes} classes allows 2 to {fewest} distinct images a sequence"
            )
        for name in self.unseen_datasets:
            if DATASETS[name].num_classes < self.num_classes:
                raise ConfigError(
                    f"unseen_datasets: {name} has fewer than {self.num_classes} classes"
                )

    def _check_size(self) -> None:
        """Refuses what no device can hold, before anything is made or estimated of it."""
        inner = max(self.model_size * max(1, self.mlp_ratio), self.num_heads * self.key_size)
        weights = self.num_layers * self.model_size * inner
        kept = self.batch_size * max(self.num_tokens * self.num_layers * inner, self.input_size**2)
        for what, count in (("weights", weights), ("numbers kept of a step", kept)):
            if count > MAX_NUMBERS:
                raise ConfigError(
                    f"model_size: {self.model_size}, num_layers: {self.num_layers}, batch_size: "
                    f"{self.batch_size}, image_size: {self.image_size} together are {count:.0e} "
                    f"{what}; allowed: {MAX_NUMBERS:.0e}"
                )

    @functools.cached_property
    def cell_id(self) -> str:
        """Hash of every setting: 16 hexadecimal digits, the same on every machine."""
        canonical = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @functools.cached_property
    def stack_key(self) -> tuple:
        return _all_but(self, PER_REPLICA)

    @functools.cached_property
    def pack_key(self) -> tuple:
        return _all_but(self, PER_REPLICA + OF_MODEL)

    @property
    def channels(self) -> int:
        """Colour channels of an input image."""
        return 1 if self.grayscale else DATASETS[self.dataset].channels

    @property
    def input_size(self) -> int:
        """Nx: numbers in an input image."""
        return self.image_size**2 * self.channels

    @property
    def num_tokens(self) -> int:
        """Tokens that the examples of a sequence become."""
        return self.sequence_length * (2 if self.token_format == "interleaved" else 1)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON and Parquet take it (tuples as lists)."""
        # dataclasses.asdict, which copies deeply, takes ten times as long.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Cell:
        """The inverse of `to_dict`. Raises ConfigError on an unknown key or impossible value."""
        known = {f.name for f in fields(cls)}
        for key in settings:
            if key not in known:
                raise ConfigError(f"{key}: unknown key; known keys: {', '.join(sorted(known))}")
        return cls(**settings)


@functools.cache
def _field_types() -> tuple[tuple[Any, Any, tuple], ...]:
    """(field, its type, what a Literal allows) of each field."""
    hints = get_type_hints(Cell)
    kinds = ((f, hints[f.name]) for f in fields(Cell))
    return tuple(
        (f, kind, get_args(kind) if get_origin(kind) is Literal else ()) for f, kind in kinds
    )


# Settings in which the replicas of a stacked model may differ: they change numbers, not shapes.
PER_REPLICA = (
    "num_tasks",
    "seed",
    "learning_rate",
    "adam_epsilon",
    "identity_share",
    "identity_steps",
)
# Settings of the model: cells that differ in these as well can still be given the same batches.
OF_MODEL = (
    "architecture",
    "model_size",
    "token_format",
    "num_layers",
    "num_heads",
    "key_size",
    "mlp_ratio",
    "position_encoding",
    "mup_base_width",
)


def stack_key(cell: Cell) -> tuple:
    """Equal for cells that can be trained as one stacked model: all settings but `PER_REPLICA`."""
    return cell.stack_key


def pack_key(cell: Cell) -> tuple:
    """Equal for cells that can be trained in one pack, step by step on the same batches: all
    settings but `PER_REPLICA` and `OF_MODEL`."""
    return cell.pack_key


def stream_key(cell: Cell) -> tuple:
    """Equal for cells of a pack that see the same sequences."""
    return (cell.seed, cell.num_tasks, cell.identity_share, cell.identity_steps)


def grouped(cells: Iterable[Cell], key: Callable[[Cell], tuple]) -> dict[tuple, list[Cell]]:
    """Cells by a key, as those above, in their order."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _all_but(cell: Cell, names: tuple[str, ...]) -> tuple:
    return tuple(getattr(cell, name) for name in _field_names() if name not in names)


@functools.cache
def _field_names() -> tuple[str, ...]:
    return tuple(sorted(f.name for f in fields(Cell)))
