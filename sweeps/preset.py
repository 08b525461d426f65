"""Preset files: a named grid of cells, checked before anything is started.

A preset is YAML with four keys:

    name: my-sweep            # where its results go; default: the file's name
    description: one line
    cell:                     # settings shared by all cells; core.cell.Cell lists them
      dataset: digits
    grid:                     # the axes: every combination of their values is a cell
      model_size: [8, 16, 32]
      num_tasks: [1, 32, 1024]

`grid` may also be a list of such grids: the sweep is their union, and a grid's axis goes before a
setting of the same name in `cell`.

Whatever is wrong with one is raised as a ConfigError of one line, before Ray starts.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import yaml

from metaphase.core.cell import Cell, ConfigError

PRESETS = Path(__file__).parent / "presets"
MAX_CELLS = 1_000_000
MAX_PRESET_BYTES = 1_000_000
MAX_VALUES, MAX_DEPTH = 50_000, 20  # of a preset's YAML
CELL_KEYS = tuple(f.name for f in fields(Cell))
PRESET_KEYS = ("name", "description", "cell", "grid")
LIST_KEYS = ("unseen_datasets",)  # settings whose one value is a list

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_show = reprlib.Repr()  # bounded, however deep the value: YAML aliases can nest exponentially
_show.maxstring = _show.maxother = 80


@dataclass(frozen=True)
class Sweep:
    """A named grid, expanded.

    `settings` is the resolved preset as plain data: dumped as YAML it is a preset that gives the
    same cells again.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    settings: dict[str, Any]

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
    presets = list_presets()
    if name_or_path in presets:
        path = str(presets[name_or_path])
    elif "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = name_or_path
    else:
        raise ConfigError(
            f"preset: {_show.repr(name_or_path)} is not one of {', '.join(presets)}"
            f"{_suggest(name_or_path, presets)}; a file is given as a path, such as ./my.yaml"
        )
    name = Path(path.partition("?")[0] if "://" in path else path).stem
    return parse_preset(_read(path), overrides, default_name=name, source=path)


def parse_preset(
    text: str, overrides: Iterable[str] = (), *, default_name: str, source: str = "preset"
) -> Sweep:
    """The sweep that a preset's text describes; see `load_preset`. `source` begins its errors."""
    try:
        settings = _parse_yaml(text)
        if not isinstance(settings, dict):
            raise ConfigError(f"expected keys {', '.join(PRESET_KEYS)}; got {_show.repr(settings)}")
        _check_keys(settings, PRESET_KEYS)
        cell = _section(settings, "cell")
        listed = isinstance(settings.get("grid"), list)
        grids = _grids(settings["grid"]) if listed else [_section(settings, "grid")]
        for key in cell:
            if not listed and key in grids[0]:
                raise ConfigError(f"{key}: both in cell and in grid; keep one of them")
        for key, values in ((k, v) for grid in grids for k, v in grid.items()):
            if not isinstance(values, list):
                raise ConfigError(f"grid: {key}: {_show.repr(values)} is not a list of values")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None

    name = settings.get("name", default_name)
    for override in overrides:
        key, value = _parse_override(override)
        if key == "name":
            name = value
        elif isinstance(value, list) and not (
            key in LIST_KEYS and not any(isinstance(v, list) for v in value)
        ):
            cell.pop(key, None)
            for grid in grids:
                grid[key] = value
        else:
            for grid in grids:
                grid.pop(key, None)
            cell[key] = value

    check_name(name)
    description = settings.get("description") or ""
    if not isinstance(description, str):
        raise ConfigError(f"description: {_show.repr(description)} is not a text")
    _check_count(sum(math.prod(map(len, grid.values())) for grid in grids))
    cells = tuple({c.cell_id: c for grid in grids for c in _expand(cell, grid)}.values())
    resolved = {"name": name, "description": description, "cell": cell}
    resolved["grid"] = grids if listed else grids[0]
    return Sweep(name, description, cells, resolved)


def select_cells(cells: Iterable[Cell], text: str) -> list[Cell]:
    """Those of `cells` that a text such as "num_tasks=64,seed=1" or "3f2a,90bc" chooses: they have
    all the settings given, and their cell_id begins with one of the words, if there are any.

    Raises:
        ConfigError: an unknown key, a part that chooses nothing, or no cell left.
    """
    cells, settings, prefixes = list(cells), [], []
    for part in (part.strip() for part in text.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            if not any(part and cell.cell_id.startswith(part) for cell in cells):
                raise ConfigError(f"--force {_show.repr(part)}: no cell of the grid begins so")
            prefixes.append(part)
            continue
        _check_keys([key], CELL_KEYS, "--force ")
        try:
            settings.append((key, value, _parse_yaml(value)))
        except ConfigError as error:
            raise ConfigError(f"--force {key}: {error}") from None
        if not any(_has(cell, *settings[-1]) for cell in cells):
            raise ConfigError(f"--force {_show.repr(part)}: no cell of the grid has this value")
    chosen = [
        cell
        for cell in cells
        if all(_has(cell, *setting) for setting in settings)
        and (not prefixes or cell.cell_id.startswith(tuple(prefixes)))
    ]
    if not chosen:
        raise ConfigError(f"--force {_show.repr(text)}: no cell of the grid fits all of this")
    return chosen


def _has(cell: Cell, key: str, text: str, value: Any) -> bool:
    has = getattr(cell, key)
    if isinstance(has, tuple):
        return text in has or (isinstance(value, list) and list(has) == value)
    if isinstance(has, bool) or isinstance(value, bool):
        return has is value
    return bool(has == value) or str(has) == text


def describe_change(old: Sweep, new: Sweep) -> list[str]:
    """Lines `- key: value` and `+ key: value` for the settings in which two presets differ."""
    before, after = _flat(old.settings), _flat(new.settings)
    lines = []
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            lines += [f"  - {key}: {before[key]}"] if key in before else []
            lines += [f"  + {key}: {after[key]}"] if key in after else []
    return lines


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    grid = settings["grid"]
    grids = grid if isinstance(grid, list) else [grid]
    flat = {f"cell: {key}": value for key, value in settings["cell"].items()}
    for i, axes in enumerate(grids):
        number = f" {i + 1}" if len(grids) > 1 else ""
        flat |= {f"grid{number}: {key}": values for key, values in axes.items()}
    return flat


def check_name(name: Any) -> None:
    """Raises ConfigError unless `name` can name a sweep's folder and can't leave its root."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name: {_show.repr(name)} can't name a sweep; allowed: up to 100 letters, digits "
            "and . _ -, with no dot in front" + ("" if isinstance(name, str) else ", as a text")
        )


def _read(path: str) -> str:
    try:
        data = _read_remote(path) if "://" in path else _read_local(path)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"preset: can't read {path}: {why}") from None
    if len(data) > MAX_PRESET_BYTES:
        raise ConfigError(f"preset: {path} is larger than {MAX_PRESET_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"preset: {path} is not UTF-8 text") from None


def _read_local(path: str) -> bytes:
    with Path(path).expanduser().open("rb") as file:
        return file.read(MAX_PRESET_BYTES + 1)


def _read_remote(uri: str) -> bytes:
    """Of a bucket, say, where a stored sweep's preset lies."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError) as error:
        raise OSError(str(error)) from None
    with filesystem.open_input_file(path) as file:
        return file.read(MAX_PRESET_BYTES + 1)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain data as YAML 1.2 does: 010 is ten, 1:32, 1_000, yes and dates are texts, 1e3 is a
    number. A key that is given twice is refused (YAML would keep the last)."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}  # not those of YAML 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise ConfigError(f"{_show.repr(key_node.value)}: given twice")
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolves merge keys; of entries with the same key, which the last one overrides, only
        that is kept, so that merges of merges don't grow."""
        super().flatten_mapping(node)
        last = {k.value if isinstance(k, yaml.ScalarNode) else k: (k, v) for k, v in node.value}
        node.value = list(last.values())


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(
        loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    )


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads as it was, and readers of YAML 1.1 too."""


# The core schema of YAML 1.2.2, section 10.3.2, and merge keys.
for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def dump_settings(settings: dict[str, Any]) -> str:
    """YAML that `parse_preset` reads as these settings."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parse_yaml(text: str) -> Any:
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"not valid YAML: {problem}{place}") from None
    except Exception as error:  # bad dates, numbers and nesting raise what Python raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"not valid YAML: {reason}") from None


def _check_size(text: str) -> None:
    """Looks at the text's structure before anything is made of it: libyaml recurses."""
    count = depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if count > MAX_VALUES:
            raise ConfigError(f"not valid YAML: more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise ConfigError(f"not valid YAML: nested more than {MAX_DEPTH} deep")


def _section(settings: dict, key: str) -> dict[str, Any]:
    section = settings.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{key}: {_show.repr(section)} is not a mapping of settings")
    _check_keys(section, CELL_KEYS, f"{key}: ")
    return dict(section)


def _grids(sections: list) -> list[dict[str, Any]]:
    if not sections:
        raise ConfigError("grid: the list is empty; give at least one grid")
    return [_section({"grid": section}, "grid") for section in sections]


def _check_keys(given: Iterable[Any], known: tuple[str, ...], where: str = "") -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}{_show.repr(key)}: unknown key{_suggest(key, known)}; "
                f"known keys: {', '.join(known)}"
            )


def _suggest(word: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word)[:100], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"--set {_show.repr(text)}: expected key=value")
    known = ("name", *CELL_KEYS)
    if key not in known:
        raise ConfigError(
            f"--set {_show.repr(key)}: unknown key{_suggest(key, known)}; "
            f"known keys: {', '.join(known)}"
        )
    try:
        parsed = _parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"--set {key}: {error}") from None
    if key == "name" and isinstance(parsed, (int, float)):
        return key, value.strip()
    return key, parsed


def _expand(cell: dict[str, Any], grid: dict[str, list]) -> tuple[Cell, ...]:
    """Every combination of the grid's values, the first axis changing slowest."""
    for key, value in cell.items():
        _check_plain(key, value)
    for key, values in grid.items():
        if not values:
            raise ConfigError(f"grid: {key}: the list is empty; give at least one value")
        seen = set()
        for value in values:
            _check_plain(f"grid: {key}", value, listed=key in LIST_KEYS)
            identity = (type(value), tuple(value) if isinstance(value, list) else value)
            if identity in seen:
                raise ConfigError(f"grid: {key}: {_show.repr(value)} is given twice")
            seen.add(identity)
    for point in _along_the_axes(grid):  # a value that can't be is found before all are tried
        _cell_at(cell, point)
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*grid.values()):
        point = dict(zip(grid, combination, strict=True))
        made = _cell_at(cell, point)
        if made.cell_id in cells:
            raise ConfigError(f"grid: two points give the same cell; the second is {_said(point)}")
        cells[made.cell_id] = made
    return tuple(cells.values())


def _along_the_axes(grid: dict[str, list]) -> Iterator[dict[str, Any]]:
    """The grid's first point, and those that differ from it in one axis."""
    first = {key: values[0] for key, values in grid.items()}
    yield first
    for key, values in grid.items():
        yield from ({**first, key: value} for value in values[1:])


def _cell_at(cell: dict[str, Any], point: dict[str, Any]) -> Cell:
    try:
        return Cell(**{**cell, **point})
    except ConfigError as error:
        raise ConfigError(
            f"{error} (at the grid point {_said(point)})" if point else str(error)
        ) from None


def _said(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _check_count(count: int) -> None:
    if count > MAX_CELLS:
        raise ConfigError(
            f"grid: {_show_count(count)} cells are too many; at most {MAX_CELLS:,} fit a sweep"
        )


def _show_count(count: int) -> str:
    """Axes of many values multiply to what no float holds."""
    return f"{count:.3g}" if count < 10**15 else f"10^{int(math.log10(count))}"


def _check_plain(key: str, value: Any, listed: bool = False) -> None:
    """Cell checks what a value means; here it is only made sure that it is short and flat."""
    if listed and not isinstance(value, list):
        raise ConfigError(f"{key}: {_show.repr(value)} is not a list; this axis takes lists")
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if isinstance(part, str):
            ok = len(part) <= 200 and part.isprintable()
        elif isinstance(part, int):
            ok = abs(part) < 2**63  # what a Parquet column holds
        else:
            ok = part is None or isinstance(part, float)
        if not ok or len(parts) > 100:
            raise ConfigError(
                f"{key}: {_show_int(value)} is not a plain value; allowed: a number, true or "
                "false, or a short text"
            )


def _show_int(value: Any) -> str:
    """Python refuses to print whole numbers of more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a whole number beyond 64 bits"
    return _show.repr(value)
