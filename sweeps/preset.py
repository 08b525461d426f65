"""Preset files: a named grid of cells, checked before anything is started.

A preset is YAML with these keys:

    name: my-sweep            # where its results go; default: the file's name
    description: one line
    cell:                     # settings shared by all cells; core.cell.Cell lists them
      dataset: digits
    grid:                     # the axes: every combination of their values is a cell
      model_size: [8, 16, 32]
      num_tasks: [1, 32, 1024]

`grid` may also be a list of such grids: the sweep is their union, and a grid's axis goes before a
setting of the same name in `cell`.

`base: figure2` begins with another preset, given by its name or by its path from this file. What
`cell` says goes before what the base says of that setting, and `null` takes back what it says;
`grid` stands in place of the base's.

`search: boundary` trains only those of the cells that tell where phases begin, see
`sweeps.search_settings`.

A plug-in of the user's (`core.plugins`) is named by its file, from where the preset is, such as
`task_family: ./mine.py:Regression`; its settings are keys like all others.

Whatever is wrong with one is raised as a ConfigError of one line, before Ray starts.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metaphase.core import plugins
from metaphase.core.cell import SETTINGS, Cell, ConfigError
from metaphase.core.plugins import NAMED_BY
from metaphase.sweeps import plug_ins, search_settings
from metaphase.sweeps.grid import LIST_KEYS, check_count, expand, without_effect
from metaphase.sweeps.places import inside, parent, read_beginning, refuse_credentials
from metaphase.sweeps.yaml12 import Dumper, parse_yaml, show

PRESETS = Path(__file__).parent / "presets"
MAX_PRESET_BYTES = 1_000_000
MAX_BASES = 20  # below one another
CELL_KEYS = tuple(SETTINGS)
PRESET_KEYS = ("name", "description", "base", "cell", "grid", search_settings.KEY, plug_ins.KEY)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Sweep:
    """A named grid, expanded.

    `settings` is the resolved preset as plain data: dumped as YAML it is a preset that gives the
    same cells again. `without_effect` has a line for each setting that the preset itself says, not
    its base, and that changes nothing in any of its cells.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    settings: dict[str, Any]
    without_effect: tuple[str, ...] = field(default=(), compare=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """The settings that some grid of the preset varies."""
        grid = self.settings["grid"]
        grids = grid if isinstance(grid, list) else [grid]
        return tuple(dict.fromkeys(key for grid in grids for key in grid))


def list_presets() -> dict[str, Path]:
    """The presets that come with the package, by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def load_preset(name_or_path: str, overrides: Iterable[str] = ()) -> Sweep:
    """The sweep of a preset, given by its name or by the path of a YAML file.

    Args:
        name_or_path: a name from `list_presets`, or a path that has a folder or ends in .yaml.
        overrides: texts "key=value" as `--set` takes them: a setting of Cell, or `name`. The
            value is read as YAML; a list makes or replaces an axis, anything else fixes it.

    Raises:
        ConfigError: the preset can't be found, read or expanded; one line that names the key,
            the value and what is allowed.
    """
    path = _place(name_or_path, "preset")
    name = Path(path.partition("?")[0] if "://" in path else path).stem
    return parse_preset(_read(path), overrides, default_name=name, source=path)


def parse_preset(
    text: str,
    overrides: Iterable[str] = (),
    *,
    default_name: str,
    source: str = "preset",
    code: bool = True,
) -> Sweep:
    """The sweep that a preset's text describes; see `load_preset`.

    Args:
        source: where it is from, which begins its errors.
        code: whether plug-ins are loaded; else they are only declared, by what a resolved preset
            says of them.
    """
    said = _said_in(text, (source,), code)
    name = said.name if said.named else default_name
    cell, grids, itself = said.cell, said.grids, said.itself
    for override in overrides:
        key, value = _parse_override(override)
        itself = (*itself, key)
        if key == "name":
            name = value
        elif isinstance(value, list) and not (
            key in LIST_KEYS and not any(isinstance(v, list) for v in value)
        ):
            cell.pop(key, None)
            for grid in grids:
                grid[key] = value
        else:
            _fix(key, value, cell, grids)

    check_name(name)
    description = said.description or ""
    if not isinstance(description, str):
        raise ConfigError(f"description: {show.repr(description)} is not a text")
    description = " ".join(description.split())
    if not description.isprintable():
        raise ConfigError(f"description: {show.repr(description)} can't be printed")
    check_count(grids)
    used = plug_ins.named(cell, grids)
    try:
        own = plug_ins.own_in_use(cell, grids)
        check_keys((*cell, *(key for grid in grids for key in grid)), (*CELL_KEYS, *own))
    except ConfigError:
        plug_ins.check_named([cell, *grids])
        raise
    cells = tuple({c.cell_id: c for grid in grids for c in expand(cell, grid, own)}.values())
    resolved = {"name": name, "description": description, "cell": cell}
    resolved["grid"] = grids if said.listed else grids[0]
    if said.search is not None:
        resolved[search_settings.KEY] = said.search
    if used:
        resolved[plug_ins.KEY] = plug_ins.stored(used)
    idle = without_effect(cells, cell, grids, dict.fromkeys(itself)) if code else ()
    return Sweep(name, description, cells, resolved, tuple(idle))


@dataclass
class _Said:
    """What a preset's text says, its base included; name and description as they stand there."""

    named: bool
    name: Any
    description: Any
    cell: dict[str, Any]
    grids: list[dict[str, list]]
    listed: bool  # whether the grids stand in a list
    search: Any
    itself: tuple[str, ...]  # the settings of cells that it says itself, not its base


def known_keys() -> tuple[str, ...]:
    """The settings of cells and those of all plug-ins that are known."""
    return (*CELL_KEYS, *plugins.all_own())


def _said_in(text: str, sources: tuple[str, ...], code: bool) -> _Said:
    """Reads a preset's text. `sources`: where it is from, after those that name it as their base.

    Raises:
        ConfigError: begins with the place of the text that is wrong.
    """
    try:
        settings = parse_yaml(text)
        if not isinstance(settings, dict):
            raise ConfigError(f"expected keys {', '.join(PRESET_KEYS)}; got {show.repr(settings)}")
        check_keys(settings, PRESET_KEYS)
        base = _base_place(settings["base"], sources) if "base" in settings else None
        below = None if base is None else _below(base, sources, code)
        folder = _folder(sources[-1])
        if plug_ins.KEY in settings:
            plug_ins.make_known(settings[plug_ins.KEY], _reader(folder) if code else None)
        listed = isinstance(settings.get("grid"), list)
        if code:
            _resolve_plug_ins(settings, folder)
        try:
            cell = _section(settings, "cell")
            grids = _grids(settings["grid"]) if listed else [_section(settings, "grid")]
        except ConfigError:
            plug_ins.check_named(_sections(settings))  # a key may be that of one misnamed
            raise
        search = settings.get(search_settings.KEY)
        search_settings.parse(search)
        for key in cell:
            if not listed and key in grids[0]:
                raise ConfigError(f"{key}: both in cell and in grid; keep one of them")
        for key, values in ((k, v) for grid in grids for k, v in grid.items()):
            if not isinstance(values, list):
                raise ConfigError(f"grid: {key}: {show.repr(values)} is not a list of values")
    except _OfBase:
        raise
    except ConfigError as error:
        raise _OfBase(f"{sources[-1]}: {error}") from None
    itself = (*cell, *(key for grid in grids for key in grid))
    if below is not None:
        kept = below.cell
        if settings.get("grid") is None:
            listed, grids = below.listed, below.grids
            for key in cell:  # which may be an axis of the base
                _fix(key, None, kept, grids)
        elif not listed:
            kept = {key: value for key, value in kept.items() if key not in grids[0]}
        cell = {key: value for key, value in {**kept, **cell}.items() if value is not None}
        search = settings.get(search_settings.KEY, below.search)
    named, description = "name" in settings, settings.get("description")
    return _Said(named, settings.get("name"), description, cell, grids, listed, search, itself)


class _OfBase(ConfigError):
    """An error that says already in which preset it is; tracebacks show it as a ConfigError."""


_OfBase.__name__ = _OfBase.__qualname__ = ConfigError.__name__
_OfBase.__module__ = ConfigError.__module__


def _below(base: str, sources: tuple[str, ...], code: bool) -> _Said:
    """What the base of the last of these presets says."""
    try:
        return _said_in(_read(base), (*sources, base), code)
    except ConfigError as error:
        raise _OfBase(str(error)) from None


def _folder(source: str) -> str:
    """Where a preset's paths start."""
    return parent(source)[0] if "/" in source else "."


def _resolve_plug_ins(settings: dict[str, Any], folder: str) -> None:
    """Replaces plug-ins by their names, in place, wherever a preset's text has its settings."""
    for section in _sections(settings):
        for key in [key for key in section if key in NAMED_BY]:
            section[key] = plug_ins.resolve(key, section[key], folder)


def _sections(settings: dict[str, Any]) -> list[dict]:
    """The mappings of a preset's text that hold settings of cells."""
    grid = settings.get("grid")
    sections = (settings.get("cell"), *(grid if isinstance(grid, list) else [grid]))
    return [section for section in sections if isinstance(section, dict)]


def _fix(key: str, value: Any, cell: dict[str, Any], grids: list[dict[str, list]]) -> None:
    """Gives all cells one value of a setting that may have been an axis."""
    for grid in grids:
        grid.pop(key, None)
    cell[key] = value


def _place(name_or_path: str, key: str) -> str:
    """Where a preset lies, given by its name or its path."""
    presets = list_presets()
    if name_or_path in presets:
        return str(presets[name_or_path])
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return name_or_path
    raise ConfigError(
        f"{key}: {show.repr(name_or_path)} is not one of {', '.join(presets)}"
        f"{_suggest(name_or_path, presets)}; a file is given as a path, such as ./my.yaml"
    )


def _base_place(base: Any, sources: tuple[str, ...]) -> str:
    """Where the base of the last of these presets lies. Raises ConfigError if it is one of them."""
    if not isinstance(base, str) or not base.isprintable():
        raise ConfigError(f"base: {show.repr(base)} is not the name or the path of a preset")
    refuse_credentials([base])
    place = _place(base, "base")
    if "://" not in place and not os.path.isabs(os.path.expanduser(place)):
        place = inside(parent(sources[-1])[0], place)
    if _real(place) in map(_real, sources):
        raise ConfigError(f"base: {show.repr(base)} goes in a circle; it is built on this preset")
    if len(sources) > MAX_BASES:
        raise ConfigError(f"base: {show.repr(base)} is the base of more than {MAX_BASES} presets")
    return place


def _real(place: str) -> str:
    return place if "://" in place else os.path.realpath(os.path.expanduser(place))


def check_name(name: Any) -> None:
    """Raises ConfigError unless `name` can name a sweep's folder and can't leave its root."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name: {show.repr(name)} can't name a sweep; allowed: up to 100 letters, digits "
            "and . _ -, with no dot in front" + ("" if isinstance(name, str) else ", as a text")
        )


def _reader(folder: str) -> Callable[[str], bytes]:
    return lambda path: _read_bytes(inside(folder, path))


def _read_bytes(path: str) -> bytes:
    try:
        data = read_beginning(path, MAX_PRESET_BYTES + 1)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"preset: can't read {path}: {why}") from None
    if len(data) > MAX_PRESET_BYTES:
        raise ConfigError(f"preset: {path} is larger than {MAX_PRESET_BYTES} bytes")
    return data


def _read(path: str) -> str:
    data = _read_bytes(path)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"preset: {path} is not UTF-8 text") from None


def dump_settings(settings: dict[str, Any]) -> str:
    """YAML that `parse_preset` reads as these settings."""
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _section(settings: dict, key: str) -> dict[str, Any]:
    section = settings.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{key}: {show.repr(section)} is not a mapping of settings")
    check_keys(section, known_keys(), f"{key}: ")
    return dict(section)


def _grids(sections: list) -> list[dict[str, Any]]:
    if not sections:
        raise ConfigError("grid: the list is empty; give at least one grid")
    if len({id(section) for section in sections}) < len(sections):  # by aliases
        raise ConfigError("grid: the list holds one grid twice")
    return [_section({"grid": section}, "grid") for section in sections]


def check_keys(given: Iterable[Any], known: tuple[str, ...], where: str = "") -> None:
    """Raises ConfigError if a key is none of those that are known; `where` begins it."""
    for key in given:
        if key not in known:
            if isinstance(key, str) and (whose := plugins.owners(key)):
                raise ConfigError(
                    f"{where}{key}: a setting of {', '.join(whose)}, named nowhere here"
                )
            raise ConfigError(
                f"{where}{show.repr(key)}: unknown key{_suggest(key, known)}; "
                f"known keys: {', '.join(known)}"
            )


def _suggest(word: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word)[:100], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"--set {show.repr(text)}: expected key=value")
    known = ("name", *known_keys())
    check_keys((key,), known, "--set ")
    try:
        parsed = parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"--set {key}: {error}") from None
    if key == "name" and isinstance(parsed, (int, float)):
        return key, value.strip()
    return key, plug_ins.resolve(key, parsed, ".")
