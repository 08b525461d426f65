"""What a cell is: every setting that influences a result, checked, with its identity.

Plain Python on purpose: `sweeps` reads it without torch, and it can't import Ray.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metaphase.core import schema
from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell_settings import MAX_TASKS, CellSettings
from metaphase.core.checks import check_size, check_values
from metaphase.core.datasets import DATASETS
from metaphase.core.evaluation import METRICS
from metaphase.core.evaluation_steps import evaluation_steps
from metaphase.core.identity import NUMERICS, earlier_identities, identity
from metaphase.core.settings import (
    MODEL,
    NONE,
    REPLICA,
    STREAM,
    ConfigError,
    Setting,
    names_of,
    names_without,
    settings_of,
)
from metaphase.core.tasks import TASK_FAMILIES, Problem

__all__ = [
    "MAX_TASKS",
    "NUMERICS",
    "Cell",
    "ConfigError",
    "grouped",
    "pack_key",
    "stack_key",
    "stream_key",
]


@dataclass(frozen=True, kw_only=True)
class Cell(CellSettings):
    """One point of the grid, and all of its settings. Immutable; checked when it is made.

    `None` for `image_size`, `num_classes` or `key_size` means "what follows from the others"; it is
    resolved at once, so a cell never holds None and its identity doesn't depend on how it was
    said. Neither does it depend on settings that its architecture doesn't use: they get the value
    that is declared as `unused`. Those that its task family doesn't know are `absent`: they aren't
    its settings at all.

    Attributes:
        own: the settings that its plug-ins bring, as (name, value) or as a mapping; they are read
            as attributes of the cell too.

    Raises:
        ConfigError: a value is impossible, alone or together with the others.
    """

    own: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        absent: set[str] = set()
        for key, declared in settings_of(type(self)).items():  # the task family comes first
            value = getattr(self, key)
            if key in absent and value == declared.absent:  # as `dataclasses.replace` says it
                continue
            if (typed := declared.typed(value)) is not value:
                object.__setattr__(self, key, typed)
            if key == "task_family":
                absent = self._absent()
        self._set_own(dict(self.own))
        self._resolve()
        check_values(self, self._unused() | self._absent())
        check_size(self)

    def __getattr__(self, name: str) -> Any:
        for key, value in self.__dict__.get("own", ()):
            if key == name:
                return value
        raise AttributeError(f"a cell has no setting {name}")

    def _set_own(self, said: Mapping[str, Any]) -> None:
        """Checks the settings of plug-ins, and gives those that aren't said their defaults."""
        declared = own_settings(self)
        for key in said:
            if key not in declared:
                raise ConfigError(f"{key}: unknown key; known keys: {', '.join(known_keys(self))}")
        values = []
        for key in sorted(declared):
            values.append((key, declared[key].checked(said.get(key, declared[key].default))))
        object.__setattr__(self, "own", tuple(values))

    def _resolve(self) -> None:
        for key, value, _ in self._overruled():
            object.__setattr__(self, key, value)
        if "dataset" not in self._absent():
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

    def _overruled(self) -> Iterator[tuple[str, Any, str]]:
        """Settings whose value others decide: name, that value, why. Each is to be set before the
        next is asked for."""
        for key in self._unused():
            yield key, UNUSED[key], f"{self.architecture} doesn't use it"
        for key in self._absent():
            yield key, SETTINGS[key].absent, f"{self.task_family} doesn't use it"
        if not self.unseen_datasets:
            yield "normalization", "own", "there are no unseen_datasets"
        if self.identity_share == 0:
            yield "identity_steps", 0, "identity_share is 0"
        if self.burstiness == 0:
            yield "burst_classes", SETTINGS["burst_classes"].neutral, "burstiness is 0"
        if self.learning_rate_schedule == "constant":
            yield "learning_rate_end", 0.0, "learning_rate_schedule is constant"
        if self.learning_rate_schedule == "triangle":
            yield "warmup_steps", self.steps // 2, "learning_rate_schedule is triangle"

    @property
    def without_effect(self) -> dict[str, str]:
        """The settings that change nothing of it, whatever is said of them: name -> why."""
        why: dict[str, str] = {}
        for key, _, reason in self._overruled():
            why.setdefault(key, reason)
        return why

    def _unused(self) -> set[str]:
        """The settings that its architecture doesn't use."""
        return UNUSED.keys() - set(ARCHITECTURES[self.architecture].settings)

    def _absent(self) -> set[str]:
        """The settings that its task family doesn't know."""
        return ABSENT - set(TASK_FAMILIES[self.task_family].settings)

    @functools.cached_property
    def cell_id(self) -> str:
        """Identity, see `core.identity`: 16 hexadecimal digits, the same on every machine."""
        return identity(self)

    @property
    def earlier_ids(self) -> tuple[str, ...]:
        """Identities under which earlier programs stored cells of these settings, the newest
        first."""
        return earlier_identities(self)

    @functools.cached_property
    def stack_key(self) -> tuple:
        return (*self._values(names_without(type(self), REPLICA)), self.own)

    @functools.cached_property
    def pack_key(self) -> tuple:
        declared = own_settings(self)
        own = tuple(pair for pair in self.own if MODEL not in declared[pair[0]].roles)
        return (*self._values(names_without(type(self), REPLICA, MODEL)), own)

    @functools.cached_property
    def stream_key(self) -> tuple:
        names = names_of(type(self), STREAM, REPLICA)
        return (self.seed, *self._values(name for name in names if name != "seed"))

    def _values(self, names: Iterable[str]) -> tuple:
        return tuple(getattr(self, name) for name in names)

    @functools.cached_property
    def problem(self) -> Problem:
        """What models are given and what they predict."""
        return TASK_FAMILIES[self.task_family].problem(self)

    @property
    def eval_steps(self) -> Sequence[int]:
        """The steps after which it is evaluated, ascending; the last is `steps`."""
        return evaluation_steps(self.eval_every, self.eval_growth, self.steps)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it is evaluated on, in the order of its history."""
        others = tuple(f"{schema.UNSEEN}/{name}" for name in self.unseen_datasets)
        return (*schema.SPLITS, *others, *(schema.RELABELLED if self.in_weights else ()))

    @property
    def channels(self) -> int:
        """Colour channels of an input image."""
        return 1 if self.grayscale else DATASETS[self.dataset].channels

    @property
    def input_size(self) -> int:
        """X: numbers in an input."""
        return self.problem.features

    @property
    def mlp_units(self) -> int:
        """Hidden units of a block's MLP."""
        return round(self.mlp_ratio * self.model_size)

    @property
    def num_tokens(self) -> int:
        """Tokens that the examples of a sequence become."""
        return self.sequence_length * (2 if self.token_format == "interleaved" else 1)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON and Parquet take it (tuples as lists)."""
        # dataclasses.asdict, which copies deeply, takes ten times as long.
        absent = self._absent()
        names = settings_of(type(self))
        values = {name: getattr(self, name) for name in names if name not in absent}
        values.update(self.own)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Cell:
        """The inverse of `to_dict`. Raises ConfigError on an unknown key or impossible value."""
        known = settings_of(cls)
        own = {key: value for key, value in settings.items() if key not in known}
        return cls(**{k: v for k, v in settings.items() if k in known}, own=tuple(own.items()))


SETTINGS: dict[str, Setting] = settings_of(Cell)
UNUSED = {key: s.unused for key, s in SETTINGS.items() if s.unused is not NONE}
ABSENT = {key for key, s in SETTINGS.items() if s.absent is not NONE}
PER_REPLICA = names_of(Cell, REPLICA)


def own_settings(cell: Cell) -> dict[str, Setting]:
    """The settings that the plug-ins of a cell bring, by name.

    Raises:
        ConfigError: two of them bring one of the same name, two metrics one column, or a setting is
            called as a metric's column is.
    """
    family = TASK_FAMILIES[cell.task_family]
    datasets = (cell.dataset, *cell.unseen_datasets) if "dataset" in family.settings else ()
    parts = [family.own, *(DATASETS[name].own for name in dict.fromkeys(datasets))]
    parts += [ARCHITECTURES[cell.architecture].own, *(METRICS[name].own for name in cell.metrics)]
    columns: dict[str, str] = {}
    for name in cell.metrics:
        if (other := columns.setdefault(METRICS[name].column, name)) != name:
            raise ConfigError(f"metrics: {other} and {name} have one column; rename a class")
    found: dict[str, Setting] = {}
    for part in parts:
        for name, declared in part.items():
            if name in found and found[name] != declared:
                raise ConfigError(f"{name}: two plug-ins have a setting of this name")
            found[name] = declared
    of_metrics = schema.with_standard_errors(tuple(columns))
    of_cells = schema.behind((*schema.SPLITS, *schema.RELABELLED), of_metrics)
    for name in sorted(found.keys() & {*of_cells}):
        raise ConfigError(f"{name}: a plug-in's setting and a metric's column have this name")
    return found


def known_keys(cell: Cell) -> list[str]:
    """The names of all settings that such a cell may have."""
    return sorted({*SETTINGS, *own_settings(cell)})


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


def follow(groups: Iterable[Hashable], values: Iterable[Hashable]) -> bool:
    """Whether values are equal wherever their groups are: whether a setting follows from these."""
    value_of: dict[Hashable, Hashable] = {}
    pairs = zip(groups, values, strict=True)
    return all(value_of.setdefault(group, value) == value for group, value in pairs)


def grouped(cells: Iterable[Cell], key: Callable[[Cell], tuple]) -> dict[tuple, list[Cell]]:
    """Cells by a key, as those above, in their order."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups
