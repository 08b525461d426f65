"""Plug-ins of the user's: task families, datasets, architectures and metrics.

A plug-in is a class, in a file of its own (`./my_family.py:LinearRegression`) or named by an entry
point of an installed package (group `metaphase.plugins`, names such as `task_family.urns`). `load`
runs its code and makes it known under a name that tells its contents, such as
`my_family.py:LinearRegression@1f2e3d4c5b6a`: the beginning of the SHA-256 of the file, or the
`version` that the class declares. By that name, and no other way, cells ask for it: no code runs
because of what a cell or a results tree says. What is known of a plug-in without its code, `facts`,
can be made known alone (`declare`), for who only reads results.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from metaphase.core import plugin_code
from metaphase.core.architectures import ARCHITECTURES, Architecture, Layers
from metaphase.core.datasets import DATASETS, DatasetInfo
from metaphase.core.evaluation import METRICS, Metric
from metaphase.core.plugin_code import REFERENCE
from metaphase.core.settings import (
    MODEL,
    RUN,
    STREAM,
    ConfigError,
    Role,
    Setting,
    as_line,
    plug_in_settings,
    settings_of_call,
)
from metaphase.core.taken_names import check_metric, check_own, check_predictors
from metaphase.core.tasks import TASK_FAMILIES, Family, family_of

if TYPE_CHECKING:
    from metaphase.core.cell import Cell

TASK_FAMILY, DATASET, ARCHITECTURE, METRIC = KINDS = (
    "task_family",
    "dataset",
    "architecture",
    "metrics",
)

REGISTRIES: dict[str, dict[str, Any]] = {
    TASK_FAMILY: TASK_FAMILIES,
    DATASET: DATASETS,
    ARCHITECTURE: ARCHITECTURES,
    METRIC: METRICS,
}
# Settings that name plug-ins, and the kind that each names.
NAMED_BY = {**dict(zip(KINDS, KINDS, strict=True)), "unseen_datasets": DATASET}
ROLES: dict[str, Role] = {TASK_FAMILY: STREAM, DATASET: STREAM, ARCHITECTURE: MODEL, METRIC: RUN}
_METHODS = {
    TASK_FAMILY: ("problem", "sequences"),
    DATASET: ("info",),
    ARCHITECTURE: ("parameters", "apply", "state_size"),
    METRIC: ("values",),
}
NAME = re.compile(r"[\w.-]{1,100}:[A-Za-z_]\w{0,60}@[\w.-]{1,40}")


@dataclass(frozen=True)
class PlugIn:
    """A plug-in that is loaded or declared.

    Attributes:
        kind: one of KINDS.
        name: by which cells ask for it.
        own: its settings, by name.
        source: its file's content; None where it belongs to an installed package, or is declared
            only.
        entry_point: by which an installed package names it; empty for a file.
        path: of its file, where it was loaded from one.
    """

    kind: str
    name: str
    own: Mapping[str, Setting]
    source: bytes | None = None
    entry_point: str = ""
    path: str = field(default="", compare=False)

    @property
    def file(self) -> str:
        """The name of its file, or of its module in an installed package."""
        return self.name.partition(":")[0]

    @property
    def is_loaded(self) -> bool:
        """Whether its code is known, not only what is said of it."""
        return self.source is not None or bool(self.entry_point)

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return self.name.partition(":")[2].partition("@")[0]


known: dict[tuple[str, str], PlugIn] = {}  # loaded or declared, by kind and name


class _OfNoKind(ConfigError):
    """What a file has under a name is no plug-in of a kind, though it may be one of another."""


def is_reference(word: Any) -> bool:
    """Whether a value names a class in a plug-in's file."""
    return isinstance(word, str) and REFERENCE.fullmatch(word) is not None


def find(kind: str, name: str) -> PlugIn | None:
    """The loaded or declared plug-in of this name; None if there is none."""
    return known.get((kind, name))


def unknown(key: str, kind: str, name: str) -> ConfigError:
    """What is wrong with a setting that names no plug-in and none of the program's own."""
    return ConfigError(f"{key}: {name!r} is not one of {', '.join(_ours(kind))}")


def _ours(kind: str) -> list[str]:
    """Names of what comes with the program."""
    return [name for name in REGISTRIES[kind] if (kind, name) not in known]


def all_own() -> list[str]:
    """Names of the settings that all known plug-ins bring, the program's own among them."""
    entries = [entry for registry in REGISTRIES.values() for entry in registry.values()]
    return list(dict.fromkeys(name for entry in entries for name in entry.own))


def owners(name: str) -> list[str]:
    """Names of what comes with the program and brings a setting of this name."""
    return [key for kind in KINDS for key in _ours(kind) if name in REGISTRIES[kind][key].own]


def kinds_of(reference: str, folder: str | Path = ".") -> list[str]:
    """What a name or a file's class is: kinds by the registries, or by the methods it has.

    Raises:
        ConfigError: the file can't be imported, or has a plug-in that can't be used.
    """
    named = [kind for kind in KINDS if reference in REGISTRIES[kind]]
    match = REFERENCE.fullmatch(reference)
    if named or match is None:
        return named
    found = []
    for kind in KINDS:
        try:
            load(kind, reference, folder)
        except _OfNoKind:
            pass
        else:
            found.append(kind)
    return found


def in_use(values: Mapping[str, Any]) -> list[PlugIn]:
    """The plug-ins that settings name, by their keys; those that come with the program aren't
    among them."""
    found = []
    for named in _named(values):
        plug_in = known.get(named)
        if plug_in is not None and plug_in not in found:
            found.append(plug_in)
    return found


def own_in_use(values: Mapping[str, Any]) -> dict[str, Setting]:
    """The settings that those bring which settings name, the program's own among them."""
    found: dict[str, Setting] = {}
    for kind, name in _named(values):
        if name in REGISTRIES[kind]:
            found.update(REGISTRIES[kind][name].own)
    return found


def _named(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of all that settings name, by their keys."""
    for key, kind in NAMED_BY.items():
        named = values.get(key)
        for name in named if isinstance(named, (list, tuple)) else (named,):
            if isinstance(name, str):
                yield kind, name


def in_use_by(cells: Iterable[Cell]) -> list[PlugIn]:
    """The plug-ins that cells use, each once."""
    said = {tuple((key, getattr(cell, key)) for key in NAMED_BY) for cell in cells}
    found = {(p.kind, p.name): p for values in said for p in in_use(dict(values))}
    return list(found.values())


def load(kind: str, reference: str, folder: str | Path = ".") -> str:
    """Runs a plug-in's code and makes it known.

    Args:
        kind: one of KINDS.
        reference: `FILE.py:NAME`, or the name of an entry point.
        folder: where a file's path starts.

    Returns:
        Its name.

    Raises:
        ConfigError: it isn't there, can't be imported, or isn't a plug-in of this kind; one line.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        named = entry_point(kind, reference)
        if named is None:
            raise unknown(kind, kind, reference)
        return named
    path = Path(folder) / Path(match["path"]).expanduser()
    source = plugin_code.read(kind, path)
    return load_source(kind, path.name, match["name"], source, path)


def load_source(
    kind: str, file: str, class_name: str, source: bytes, path: str | Path | None = None
) -> str:
    """As `load`, of a file's content.

    Args:
        file: its name.
        path: where it is, for tracebacks.
    """
    said = f"{kind}: {path or file}:{class_name}"
    module = plugin_code.run(said, source, str(path or file))
    if path is not None:
        plugin_code.require_one_file(said, source, Path(path))
    cls = getattr(module, class_name, None)
    if cls is None:
        raise ConfigError(f"{said}: the file has no {class_name}")
    version = _version(said, cls) or hashlib.sha256(source).hexdigest()[:12]
    where = str(Path(path).resolve()) if path is not None else ""
    return _register(said, kind, f"{file}:{class_name}@{version}", cls, source, path=where)


def load_again(plug_ins: Iterable[PlugIn]) -> None:
    """Loads plug-ins that another process has loaded.

    Raises:
        ConfigError: one can't be loaded here, or is another one than there.
    """
    for there in plug_ins:
        if there.source is None:
            name = entry_point(there.kind, there.entry_point)
        else:
            name = load_source(there.kind, there.file, there.class_name, there.source)
        if name != there.name:
            what = f"it is {name}" if name else "its package isn't installed"
            raise ConfigError(f"{there.kind}: {there.name} can't be had: {what}")


def entry_point(kind: str, name: str) -> str | None:
    """As `load`, of an installed package's entry point `<kind>.<name>`; None if there is none."""
    found = plugin_code.of_entry_point(kind, name)
    if found is None:
        return None
    cls, entry = found
    said = f"{kind}: {name} (of {entry.value})"
    version = _version(said, cls) or (entry.dist.version if entry.dist else "0")
    called = f"{entry.module}:{getattr(cls, '__name__', name)}@{version}"
    return _register(said, kind, called, cls, None, name)


def _version(said: str, cls: Any) -> str:
    version = getattr(cls, "version", None)
    if version is None or isinstance(version, property):
        return ""
    if not isinstance(version, (str, int)) or not re.fullmatch(r"[\w.-]{1,30}", str(version)):
        raise ConfigError(f"{said}: version {version!r}; allowed: letters, digits and . _ -")
    return f"v{version}"


@plugin_code.one_thread()
def _register(
    said: str, kind: str, name: str, cls: Any, source: bytes | None, entry_point: str = "",
    path: str = "",
) -> str:  # fmt: skip
    before = known.get((kind, name))
    if before is not None and before.source == source and before.entry_point == entry_point:
        return name
    if before is not None and before.path and path and before.path != path:  # of one version
        raise ConfigError(
            f"{said}: {name} is {before.path} too, and they differ; give one another version"
        )
    if not isinstance(cls, type):
        raise _OfNoKind(f"{said} is not a class")
    is_module = kind == ARCHITECTURE and _is_module(cls)
    lacking = [m for m in _METHODS[kind] if not callable(getattr(cls, m, None))]
    if kind == DATASET and not _is_torchvision(cls) and not callable(getattr(cls, "load", None)):
        lacking.append("load")
    if lacking and not is_module:
        raise _OfNoKind(f"{said} lacks {', '.join(lacking)}")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{said}: {name!r} can't name a plug-in; use letters, digits and . _ -")
    try:
        if is_module:
            own = settings_of_call(cls, MODEL, skip=2)  # the width, the number of tokens
        else:
            own = plug_in_settings(cls, ROLES[kind])
        check_own(own)
    except ConfigError as error:
        raise ConfigError(f"{said}: {error}") from None
    except Exception as error:  # a name in an annotation, say, that isn't known
        raise ConfigError(f"{said} has settings that can't be read: {as_line(error)}") from None
    try:
        entry = _ENTRIES[kind](name, cls, own)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{said} fails: {as_line(error)}") from None
    REGISTRIES[kind][name] = entry
    known[kind, name] = PlugIn(kind, name, own, source, entry_point, path)
    return name


def _is_module(cls: type) -> bool:
    from torch import nn

    return issubclass(cls, nn.Module)


def _is_torchvision(cls: type) -> bool:
    """Whether a class looks like torchvision's data sets (`torchvision.datasets.MNIST`)."""
    return callable(getattr(cls, "__getitem__", None)) and callable(getattr(cls, "__len__", None))


def _dataset(name: str, cls: Any, own: Mapping[str, Setting]) -> DatasetInfo:
    from metaphase.core.datasets.classes import facts_of

    return facts_of(cls, own)


def _architecture(name: str, cls: type, own: Mapping[str, Setting]) -> Architecture:
    from metaphase.core.architectures.classes import ClassLayers, ModuleLayers

    def layers() -> Layers:
        made = ModuleLayers if _is_module(cls) else ClassLayers
        return cast(Layers, made(cls, tuple(own)))

    from metaphase.core.cell import UNUSED

    return Architecture(
        name,
        settings=_uses(cls, UNUSED),
        has_context=bool(getattr(cls, "has_context", True)),
        own=own,
        make=layers,
    )


def _family(name: str, cls: type, own: Mapping[str, Setting]) -> Family:
    from metaphase.core.cell import ABSENT

    _uses(cls, ABSENT)
    names: list[Any] = []
    with contextlib.suppress(Exception):  # which settings other than its defaults may need
        names = list(cls().predictors())
    check_predictors(names)
    return family_of(name, cls, own)


def _uses(cls: type, allowed: Iterable[str]) -> tuple[str, ...]:
    """The settings that a class asks for, of those that not all of its kind have."""
    said = getattr(cls, "uses", ())
    if not isinstance(said, (tuple, list)) or not set(said) <= set(allowed):
        some = ", ".join(sorted(allowed))
        raise ConfigError(f"{cls.__name__}: uses = {said!r}; allowed: a tuple of {some}")
    return tuple(said)


def _metric(name: str, cls: type, own: Mapping[str, Setting]) -> Metric:
    column = cls.__name__.lower()
    check_metric(name, column)
    return Metric(column, lambda: cls, own)


_ENTRIES = {
    TASK_FAMILY: _family,
    DATASET: _dataset,
    ARCHITECTURE: _architecture,
    METRIC: _metric,
}
