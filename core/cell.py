"""What a cell is: every setting that influences a result, checked, with its identity.

Plain Python on purpose: `sweeps` reads it without torch, and it can't import Ray.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.checks import check_size, check_values
from metaphase.core.datasets import DATASETS
from metaphase.core.evaluation_steps import evaluation_steps
from metaphase.core.settings import (
    MODEL,
    NONE,
    REPLICA,
    RUN,
    STREAM,
    ConfigError,
    Setting,
    digest,
    names_of,
    names_without,
    neutral_of,
    setting,
    settings_of,
)

# Revision of the numbers: raised whenever a cell's results change by a bit on the machine that they
# were made on. Results and checkpoints that don't say theirs are of revision 1.
NUMERICS = 2
# Identities before this revision, and some of it, are hashes of settings alone. Of the settings
# with a neutral value, these are in them: programs came to know one after the other.
_FIRST_IN_IDENTITY = 2
_FORMER_IDENTITIES = (("normalization", "mup_base_width"), ("normalization",), ())

MAX_TASKS = 2**32  # seen tasks are numbered 0 ... MAX_TASKS - 1; unseen ones start there

TokenFormat = Literal["shifted", "interleaved"]
PositionEncoding = Literal["rotary", "learned", "none"]
Normalization = Literal["own", "base"]
Precision = Literal["fp32", "tf32", "bf16"]
Schedule = Literal["constant", "linear", "cosine", "triangle"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid, and all of its settings. Immutable; checked when it is made.

    `None` for `image_size`, `num_classes` or `key_size` means "what follows from the others"; it is
    resolved at once, so a cell never holds None and its identity doesn't depend on how it was
    said. Neither does it depend on settings that its architecture doesn't use: they get the value
    that is declared as `unused`.

    Raises:
        ConfigError: a value is impossible, alone or together with the others.
    """

    architecture: str = setting(
        "transformer", "sequence model", MODEL, choices=tuple(ARCHITECTURES)
    )
    model_size: int = setting(
        32,
        "width of the residual stream, of hidden states",
        MODEL,
        least=2,  # layer norm of one number is 0
        greatest=2**16,
    )
    num_tasks: int = setting(
        1, "number of tasks N to train on, up to 2^32", STREAM, REPLICA, least=1, greatest=MAX_TASKS
    )
    seed: int = setting(
        0,
        "seed of the tasks, the batches and the initial weights",
        STREAM,
        REPLICA,
        least=0,
        greatest=2**32 - 1,
    )

    dataset: str = setting("digits", "base dataset", STREAM, choices=tuple(DATASETS))
    image_size: int = setting(
        None,
        "side the images are resized to, pixels; null: as they are",
        STREAM,
        least=1,
        greatest=2**8,
    )
    grayscale: bool = setting(False, "average the colour channels", STREAM)
    num_classes: int = setting(
        None,
        "use the first this many classes; null: all, of glyphs 10",
        STREAM,
        least=2,  # to the dataset's
    )
    unseen_datasets: tuple[str, ...] = setting(
        (),
        "further datasets for splits unseen/<dataset>",
        STREAM,
        choices=tuple(DATASETS),
        item="dataset",
        stored="separated by commas; empty if there are none",
    )
    normalization: Normalization = setting(
        "own",
        "whose training images normalize a further set",
        STREAM,
        neutral="base",
        stored="its `own`, or those of the `base` dataset; `own` where there is no further set",
    )

    identity_share: float = setting(
        0.0,
        "share of the seen tasks that keep labels as they are",
        STREAM,
        REPLICA,
        least=0,
        greatest=1,
        stored="splits of seen tasks have the share that training ends with, unseen tasks none",
    )
    identity_steps: int = setting(
        0,
        "steps over which identity_share falls to 0; 0: it stays",
        STREAM,
        REPLICA,
        least=0,
        greatest=2**31,
    )

    sequence_length: int = setting(16, "labelled examples in a sequence, T", STREAM, least=2)
    token_format: TokenFormat = setting("interleaved", "how examples become tokens", MODEL)

    num_layers: int = setting(2, "blocks, layers", MODEL, least=1, greatest=1000)
    num_heads: int = setting(
        2, "heads of attention or of the memory", MODEL, least=1, greatest=2**12, unused=0
    )
    key_size: int = setting(
        None,
        "size of a head's keys and values; null: model_size / num_heads",
        MODEL,
        least=1,
        greatest=2**12,
        unused=0,
    )
    mlp_ratio: int = setting(
        4, "hidden units of a block's MLP over model_size", MODEL, least=1, greatest=2**8, unused=0
    )
    position_encoding: PositionEncoding = setting(
        "rotary",
        "how attention knows positions",
        MODEL,
        unused="none",
    )

    steps: int = setting(1000, "meta-training steps", RUN, least=1, greatest=2**31)
    batch_size: int = setting(32, "sequences in a step's batch", RUN, least=1, greatest=2**20)
    learning_rate: float = setting(
        1e-3,
        "Adam's learning rate after warm-up, before it falls",
        REPLICA,
        least=0.0,
        greatest=float("inf"),
        exclusive=(True, True),
    )
    mup_base_width: int = setting(
        0,
        "width at which all maps have learning_rate (muP); 0: at all",
        MODEL,
        least=0,
        greatest=2**16,
        neutral=0,
        stored="at other widths rates go with the inverse of the width",
    )
    warmup_steps: int = setting(
        100, "steps over which the learning rate rises linearly", RUN, least=0, greatest=2**31
    )
    learning_rate_schedule: Schedule = setting(
        "constant",
        "what the learning rate does after warm-up, up to `steps`",
        RUN,
        neutral="constant",
        stored="triangle rises over the first half of `steps`, which is its warmup_steps",
    )
    learning_rate_end: float = setting(
        0.0,
        "share of learning_rate that its schedule falls to",
        REPLICA,
        least=0,
        greatest=1,
        neutral=0.0,
        stored="0 where the schedule is constant",
    )
    adam_beta1: float = setting(
        0.9,
        "Adam's decay of the first moment",
        RUN,
        least=0.0,
        greatest=1.0,
        exclusive=(False, True),
    )
    adam_beta2: float = setting(
        0.999,
        "Adam's decay of the second moment",
        RUN,
        least=0.0,
        greatest=1.0,
        exclusive=(False, True),
    )
    adam_epsilon: float = setting(
        1e-8, "Adam's epsilon", REPLICA, least=0.0, greatest=float("inf"), exclusive=(True, True)
    )
    weight_decay: float = setting(
        0.0,
        "decoupled weight decay, AdamW's",
        REPLICA,
        least=0,
        greatest=float("inf"),
        exclusive=(False, True),
        neutral=0.0,
    )
    gradient_clip: float = setting(
        0.0,
        "norm that a cell's gradient is scaled down to where it is larger; 0: never",
        REPLICA,
        least=0,
        greatest=float("inf"),
        exclusive=(False, True),
        neutral=0.0,
    )
    precision: Precision = setting("fp32", "of matrix products; weights and sums stay float32", RUN)

    eval_every: int = setting(
        250, "steps between evaluations (and checkpoints)", RUN, least=1, greatest=2**31
    )
    eval_growth: float = setting(
        1.0,
        "least ratio of an evaluation's step to the one before; 1: distances stay",
        RUN,
        least=1,
        greatest=1000,
        neutral=1.0,
    )
    eval_sequences: int = setting(
        512, "sequences a split is evaluated on", RUN, least=2, greatest=2**24
    )
    stop_when_decided: bool = setting(False, "stop before `steps` once the phase is settled", RUN)

    def __post_init__(self) -> None:
        for key, declared in settings_of(type(self)).items():
            value = getattr(self, key)
            if (typed := declared.typed(value)) is not value:
                object.__setattr__(self, key, typed)
        self._resolve()
        check_values(self, self._unused())
        check_size(self)

    def _resolve(self) -> None:
        for key in self._unused():
            object.__setattr__(self, key, UNUSED[key])
        if not self.unseen_datasets:
            object.__setattr__(self, "normalization", "own")
        if self.identity_share == 0:
            object.__setattr__(self, "identity_steps", 0)
        if self.learning_rate_schedule == "constant":
            object.__setattr__(self, "learning_rate_end", 0.0)
        if self.learning_rate_schedule == "triangle":
            object.__setattr__(self, "warmup_steps", self.steps // 2)
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

    def _unused(self) -> set[str]:
        """The settings that its architecture doesn't use."""
        return UNUSED.keys() - set(ARCHITECTURES[self.architecture].settings)

    @functools.cached_property
    def cell_id(self) -> str:
        """Identity: 16 hexadecimal digits, the same on every machine. A hash of `NUMERICS` and all
        settings but those that have their neutral value."""
        return self._identity(NUMERICS)

    @property
    def earlier_ids(self) -> tuple[str, ...]:
        """Identities under which earlier programs stored cells of these settings, the newest first:
        those of earlier numerics, and hashes without numerics, which may be of any."""
        numerics = reversed(range(_FIRST_IN_IDENTITY, NUMERICS))
        ids = [self._identity(revision) for revision in numerics]
        neutral = {
            k: s.neutral for k, s in settings_of(type(self)).items() if s.neutral is not NONE
        }
        for known in _FORMER_IDENTITIES:
            unknown = {key: value for key, value in neutral.items() if key not in known}
            if not unknown or replace(self, **unknown) == self:
                settings = self.to_dict()
                ids.append(digest({k: v for k, v in settings.items() if k not in unknown}))
        return tuple(ids)

    def _identity(self, numerics: int) -> str:
        values = self.to_dict()
        for key, neutral in neutral_of(type(self)).items():
            if getattr(self, key) == neutral:
                del values[key]
        return digest({"numerics": numerics, **values})

    @functools.cached_property
    def stack_key(self) -> tuple:
        return self._values(names_without(type(self), REPLICA))

    @functools.cached_property
    def pack_key(self) -> tuple:
        return self._values(names_without(type(self), REPLICA, MODEL))

    @functools.cached_property
    def stream_key(self) -> tuple:
        names = names_of(type(self), STREAM, REPLICA)
        return (self.seed, *self._values(name for name in names if name != "seed"))

    def _values(self, names: Iterable[str]) -> tuple:
        return tuple(getattr(self, name) for name in names)

    @property
    def eval_steps(self) -> Sequence[int]:
        """The steps after which it is evaluated, ascending; the last is `steps`."""
        return evaluation_steps(self.eval_every, self.eval_growth, self.steps)

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
        values = {name: getattr(self, name) for name in settings_of(type(self))}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Cell:
        """The inverse of `to_dict`. Raises ConfigError on an unknown key or impossible value."""
        known = settings_of(cls)
        for key in settings:
            if key not in known:
                raise ConfigError(f"{key}: unknown key; known keys: {', '.join(sorted(known))}")
        return cls(**settings)


SETTINGS: dict[str, Setting] = settings_of(Cell)
UNUSED = {key: s.unused for key, s in SETTINGS.items() if s.unused is not NONE}
PER_REPLICA = names_of(Cell, REPLICA)


def stack_key(cell: Cell) -> tuple:
    """Equal for cells that can be trained as one stacked model: all settings but those in which
    replicas may differ."""
    return cell.stack_key


def pack_key(cell: Cell) -> tuple:
    """Equal for cells that can be trained in one pack, step by step on the same batches: all
    settings but those of replicas and of the model."""
    return cell.pack_key


def stream_key(cell: Cell) -> tuple:
    """Equal for cells of a pack that see the same sequences. In its order those of a seed, which
    share its tasks, are neighbours."""
    return cell.stream_key


def grouped(cells: Iterable[Cell], key: Callable[[Cell], tuple]) -> dict[tuple, list[Cell]]:
    """Cells by a key, as those above, in their order."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups
