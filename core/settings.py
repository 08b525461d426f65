"""How a setting is declared: once, with all that is known of it.

`core.cell.Cell` declares its fields with `setting`. Options of commands, checks, the keys by which
cells share a stack, a pack or a stream, the columns of the cells table and the table of settings in
results/README.md are derived from these declarations. Plain Python: `sweeps` and `analysis` read
them without torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, cast

Role = Literal["stream", "replica", "model", "run"]
STREAM: Role = "stream"  # of the task distribution: it decides which sequences are seen
REPLICA: Role = "replica"  # replicas of a stacked model may differ in it: it changes no shapes
MODEL: Role = "model"  # of the model: cells that differ in it can be given the same batches
RUN: Role = "run"  # of the training and its evaluations: the same for all cells of a pack

NONE: Any = object()  # no such value is declared

_SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_COLUMNS = {int: "int", float: "float", bool: "bool"}  # all else is a text


F = TypeVar("F", bound=Callable)


def _cached(function: F) -> F:
    """`functools.cache`, whose type refuses dataclasses as arguments."""
    return cast(F, functools.cache(function))


class ConfigError(ValueError):
    """A setting that can't be used. The message names the key, the value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a setting.

    Attributes:
        name: its key.
        kind: int, float, bool, str, or tuple for a list of texts.
        default: its value where nothing is said; None: what follows from other settings.
        help: one line, without a full stop.
        roles: what it belongs to; see `Role`. One that is STREAM and REPLICA tells streams of a
            pack apart.
        least, greatest: bounds of a number; None: there is none.
        exclusive: whether the least and the greatest value are themselves not allowed.
        choices: the texts that are allowed; (): any.
        item: what a list names, such as "dataset".
        unused: the value of a cell whose architecture doesn't use it; NONE: all use it.
        neutral: the value that cells had before there was such a setting. While a cell has it, its
            identity is as if there were none. NONE: it was there from the beginning.
        stored: what its column holds, where that is more than `help` says.
    """

    name: str
    kind: type
    default: Any
    help: str
    roles: tuple[Role, ...]
    least: float | None = None
    greatest: float | None = None
    exclusive: tuple[bool, bool] = (False, False)
    choices: tuple[str, ...] = ()
    item: str = ""
    unused: Any = NONE
    neutral: Any = NONE
    stored: str = ""

    @property
    def column(self) -> str:
        """Type of its column in Parquet: int, float, bool or text; a list is one text, see
        `core.schema.to_column`."""
        return _COLUMNS.get(self.kind, "text")

    @property
    def allowed(self) -> str:
        """What may be said, for tables."""
        if self.choices:
            return ("several of " if self.kind is tuple else "") + ", ".join(self.choices)
        if self.least is None:
            return _SAID[self.kind]
        return self._range(self.greatest)

    def _range(self, greatest: float | None) -> str:
        above, below = self.exclusive
        least = f"above {self.least}" if above else f"{self.least}"
        if greatest is None or greatest == float("inf"):
            return least if above else f"{least} or more"
        return f"{least} to {'below ' if below else ''}{greatest}"

    def typed(self, value: Any) -> Any:
        """The value in the setting's type: a float of a whole number, a tuple of a list.

        Raises:
            ConfigError: it is of another kind, or none of the choices.
        """
        if type(value) is self.kind and not self.choices and self.kind not in (tuple, float):
            return value
        if value is None and self.default is None:
            return None
        if self.kind is tuple:
            return self._listed(value)
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{self.name}: {value!r} is not one of {', '.join(self.choices)}")
            return value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.kind is float and number:
            try:
                return float(value) + 0.0  # -0.0 is 0.0
            except OverflowError:
                raise ConfigError(f"{self.name}: {value!r} is not a number") from None
        if not isinstance(value, self.kind) or (self.kind is int and not number):
            whole = self.kind is int and isinstance(value, float) and value.is_integer()
            meant = f"; write {value + 0.0:.0f}" if whole else ""
            raise ConfigError(f"{self.name}: {value!r} is not {_SAID[self.kind]}{meant}")
        return value

    def _listed(self, value: Any) -> tuple[str, ...]:
        """A list of names; or the text that `core.schema.to_column` makes of one."""
        names = list(filter(None, value.split(","))) if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"{self.name}: {value!r} is not a list of {self.item} names")
        if len(set(names)) < len(names):
            raise ConfigError(f"{self.name}: {value!r} names a {self.item} twice")
        for name in names:
            if self.choices and name not in self.choices:
                raise ConfigError(f"{self.name}: {name!r} is not one of {', '.join(self.choices)}")
        return tuple(names)

    def check_range(self, value: Any, greatest: float | None = None) -> None:
        """Raises ConfigError if a number is out of bounds; `greatest` goes before the declared. For
        settings that have bounds."""
        assert self.least is not None
        greatest = self.greatest if greatest is None else greatest
        above, below = self.exclusive
        enough = value > self.least if above else value >= self.least
        too_much = greatest is not None and not (value < greatest if below else value <= greatest)
        if not enough or too_much:
            finite = ", finite" if value == float("inf") else ""
            raise ConfigError(
                f"{self.name}: {value} is out of range; allowed: {self._range(greatest)}{finite}"
            )


def setting(default: Any, text: str, *roles: Role, **facts: Any) -> Any:
    """A dataclass field that is a setting.

    Args:
        default: see `Setting`, as for all others.
        text: its help.
        roles: its roles.
        facts: further attributes of `Setting`.
    """
    return field(default=default, metadata={"help": text, "roles": roles, **facts})


@_cached
def settings_of(cls: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by name, in their order."""
    hints = typing.get_type_hints(cls)
    return {f.name: _declared(f.name, hints[f.name], f.default, f.metadata) for f in fields(cls)}


def _declared(name: str, hint: Any, default: Any, facts: Any) -> Setting:
    origin = typing.get_origin(hint)
    if origin is Literal:
        facts = {"choices": typing.get_args(hint), **facts}
    kind = {Literal: str, tuple: tuple, None: hint}[origin]
    return Setting(name=name, kind=kind, default=default, **facts)


@_cached
def names_of(cls: type, *roles: Role) -> tuple[str, ...]:
    """Names of a dataclass's settings that have all of these roles, in their order."""
    return tuple(name for name, s in settings_of(cls).items() if set(roles) <= set(s.roles))


@_cached
def names_without(cls: type, *roles: Role) -> tuple[str, ...]:
    """Names of a dataclass's settings that have none of these roles, in their order."""
    return tuple(name for name, s in settings_of(cls).items() if not set(roles) & set(s.roles))


@_cached
def neutral_of(cls: type) -> dict[str, Any]:
    """The neutral values of a dataclass's settings, by name of those that have one."""
    return {key: s.neutral for key, s in settings_of(cls).items() if s.neutral is not NONE}


_CANONICAL = json.JSONEncoder(sort_keys=True)


def digest(values: dict[str, Any]) -> str:
    """Hash of plain values by name: 16 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(_CANONICAL.encode(values).encode()).hexdigest()[:16]
