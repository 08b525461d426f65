"""How a setting is declared: once, with all that is known of it.

`core.cell.Cell` declares its fields with `setting`. Options of commands, checks, the keys by which
cells share a stack, a pack or a stream, the columns of the cells table and the table of settings in
results/README.md are derived from these declarations. Plain Python: `sweeps` and `analysis` read
them without torch.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, cast

Role = Literal["stream", "replica", "model", "run"]
STREAM: Role = "stream"  # of the task distribution: it decides which sequences are seen
REPLICA: Role = "replica"  # replicas of a stacked model may differ in it: it changes no shapes
MODEL: Role = "model"  # of the model: cells that differ in it can be given the same batches
RUN: Role = "run"  # of the training and its evaluations: the same for all cells of a pack

FLOAT32 = (2.0**-126, (2.0 - 2.0**-23) * 2.0**127)  # its smallest normal number, its largest
NONE: Any = object()  # no such value is declared

_SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_COLUMNS = {int: "int", float: "float", bool: "bool"}  # all else is a text


F = TypeVar("F", bound=Callable)


def _cached(function: F) -> F:
    """`functools.cache`, whose type refuses dataclasses as arguments."""
    return cast(F, functools.cache(function))


class ConfigError(ValueError):
    """A setting that can't be used. The message names the key, the value and what is allowed."""


def as_line(error: BaseException) -> str:
    """An error's class and what it says, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


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
        float32: whether it is a number that is computed with in float32, where what is smaller than
            its smallest normal number is none, and what is larger than its largest is infinite.
        choices: the texts that are allowed; (): any. A registry of plug-ins (`core.plugins`) grows
            as they are loaded.
        item: what a list names, such as "dataset".
        unused: the value of a cell whose architecture doesn't use it; NONE: all use it.
        absent: the value of a cell whose task family doesn't know it, which then is none of the
            cell's settings; NONE: all families know it.
        neutral: the value that cells had before there was such a setting. While a cell has it, its
            identity is as if there were none. NONE: it was there from the beginning.
        was_whole: whether it is a number that was a whole one before: such values stay of type
            int, by which they are written in identities.
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
    float32: bool = False
    choices: Collection[str] = ()
    item: str = ""
    unused: Any = NONE
    absent: Any = NONE
    neutral: Any = NONE
    was_whole: bool = False
    stored: str = ""

    def checked(self, value: Any) -> Any:
        """A plug-in's setting, typed and within its bounds; numbers are finite, since what isn't
        can't be an axis.

        Raises:
            ConfigError: it isn't.
        """
        value = self.typed(value)
        if self.kind is float and value is not None and not math.isfinite(value):
            raise ConfigError(f"{self.name}: {value} is out of range; allowed: finite numbers")
        if self.kind in (int, float) and value is not None:
            self.check_range(value)
        return value

    @property
    def column(self) -> str:
        """Type of its column in Parquet: int, float, bool or text; a list is one text, see
        `core.schema.to_column`."""
        return _COLUMNS.get(self.kind, "text")

    @property
    def allowed(self) -> str:
        """What may be said, for tables."""
        if self.choices:
            return ("any of " if self.kind is tuple else "") + self._choices
        if self.least is None and self.greatest is None:
            return _SAID[self.kind]
        return self._range(self.greatest)

    @property
    def _choices(self) -> str:
        """Those that come with the program; loaded plug-ins have an @ in their names."""
        return ", ".join(choice for choice in self.choices if "@" not in choice)

    def _range(self, greatest: float | None) -> str:
        above, below = self.exclusive
        if self.least is None:
            return f"{'below' if below else 'at most'} {_bound(greatest)}"
        least = f"above {_bound(self.least)}" if above else _bound(self.least)
        if greatest is None or greatest == float("inf"):
            return least if above else f"{least} or more"
        return f"{least} to {'below ' if below else ''}{_bound(greatest)}"

    def typed(self, value: Any) -> Any:
        """The value in the setting's type: a float of a whole number, a tuple of a list.

        Raises:
            ConfigError: it is of another kind, or none of the choices.
        """
        if self.was_whole and type(value) is float and value.is_integer():
            return int(value)
        if self.was_whole and type(value) is int:
            return value
        if type(value) is self.kind and not self.choices and self.kind not in (tuple, float):
            return value
        if value is None and self.default is None:
            return None
        if self.kind is tuple:
            return self._listed(value)
        if self.choices:
            if not isinstance(value, str) or value not in self.choices:
                raise ConfigError(f"{self.name}: {value!r} is not one of {self._choices}")
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
                raise ConfigError(f"{self.name}: {name!r} is not one of {self._choices}")
        return tuple(names)

    def check_range(self, value: Any, greatest: float | None = None) -> None:
        """Raises ConfigError if a number is out of bounds; `greatest` goes before the declared."""
        greatest = self.greatest if greatest is None else greatest
        above, below = self.exclusive
        enough = self.least is None or (value > self.least if above else value >= self.least)
        too_much = greatest is not None and not (value < greatest if below else value <= greatest)
        if not enough or too_much:
            finite = ", finite" if value == float("inf") else ""
            raise ConfigError(
                f"{self.name}: {value} is out of range; allowed: {self._range(greatest)}{finite}"
            )
        if self.float32 and value != 0 and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
            raise ConfigError(
                f"{self.name}: {value} is out of range; allowed: {self._range(greatest)}, "
                f"within float32's {FLOAT32[0]:.3g} to {FLOAT32[1]:.3g}"
            )


def _bound(number: float | None) -> str:
    """A bound as it is told: alike whether it was written as a whole number or not."""
    return f"{number:.12g}" if isinstance(number, float) else str(number)


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
    """The settings that a dataclass declares with `setting`, by name, in their order."""
    hints = typing.get_type_hints(cls)
    return {
        f.name: _declared(f.name, hints[f.name], f.default, f.metadata)
        for f in fields(cls)
        if "help" in f.metadata
    }


def plug_in_settings(cls: type, role: Role) -> dict[str, Setting]:
    """The settings of a plug-in's class, by name: all fields of a dataclass, none of another class.
    All have the role given.
    A field that isn't declared with `setting` has its name for help.

    Raises:
        ConfigError: a field has no default, or a type that no setting has.
    """
    if not is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    found = {}
    for f in fields(cls):
        facts = f.metadata if "help" in f.metadata else {"help": f.name.replace("_", " ")}
        if f.default is MISSING:
            raise ConfigError(f"its setting {f.name} has no default")
        try:
            found[f.name] = _declared(f.name, hints[f.name], f.default, {**facts, "roles": (role,)})
        except KeyError:
            raise ConfigError(
                f"its setting {f.name} is of type {hints[f.name]}; allowed: int, float, bool, str, "
                "Literal of texts, tuple[str, ...]"
            ) from None
        found[f.name].checked(f.default)
    return found


_PLAIN = ("help", "least", "greatest", "stored", "item")  # attributes as they are
_KIND_NAMES = {int: "int", float: "float", bool: "bool", str: "str", tuple: "tuple"}


def plain_setting(declared: Setting) -> dict[str, Any]:
    """A plug-in's setting as plain data, what differs from an ordinary one's."""
    said = {"kind": _KIND_NAMES[declared.kind], "default": declared.default}
    said["default"] = list(said["default"]) if declared.kind is tuple else said["default"]
    said |= {name: value for name in _PLAIN if (value := getattr(declared, name)) not in (None, "")}
    if declared.choices:
        said["choices"] = list(declared.choices)
    if any(declared.exclusive):
        said["exclusive"] = list(declared.exclusive)
    return said


def setting_from_plain(name: str, said: Mapping[str, Any], role: Role) -> Setting:
    """The inverse of `plain_setting`.

    Raises:
        KeyError, TypeError, ValueError: it isn't what that makes of a setting.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{name!r} can't name a setting")
    kind = {word: kind for kind, word in _KIND_NAMES.items()}[said["kind"]]
    facts: dict[str, Any] = {key: said[key] for key in _PLAIN if key in said}
    for key in ("least", "greatest"):
        if type(facts.get(key, 0)) not in (int, float):
            raise ValueError(f"{facts[key]!r} is not a number")
    facts["choices"] = tuple(str(choice) for choice in said.get("choices", ()))
    above, below = (bool(end) for end in said.get("exclusive", (False, False)))
    facts |= {"help": str(facts.get("help", "")), "exclusive": (above, below), "roles": (role,)}
    default = tuple(said["default"]) if kind is tuple else said["default"]
    made = Setting(name=name, kind=kind, default=default, **facts)
    made.checked(default)
    return made


def settings_of_call(function: Callable, role: Role, skip: int) -> dict[str, Setting]:
    """The settings that a function, or a class's constructor, takes after its first `skip`
    arguments, by name; they have the role given.

    Raises:
        ConfigError: one has no default, or a type that no setting has.
    """
    made_by: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = typing.get_type_hints(made_by)
    found = {}
    for p in list(inspect.signature(function).parameters.values())[skip:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        hint = hints.get(p.name, type(p.default))
        if p.default is p.empty or typing.get_origin(hint) or hint not in _KINDS:
            raise ConfigError(
                f"its setting {p.name} lacks a default, or is none of int, float, bool, str"
            )
        facts = {"help": p.name.replace("_", " "), "roles": (role,)}
        found[p.name] = _declared(p.name, hint, p.default, facts)
    return found


_KINDS = {int: int, float: float, bool: bool, str: str, Literal: str, tuple: tuple}


def _declared(name: str, hint: Any, default: Any, facts: Any) -> Setting:
    origin = typing.get_origin(hint)
    if origin is Literal:
        facts = {"choices": typing.get_args(hint), **facts}
        if not all(isinstance(choice, str) for choice in facts["choices"]):
            raise KeyError(name)
    kind = _KINDS[origin or hint]
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
