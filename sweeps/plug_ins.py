"""The plug-ins that a preset names, and how a results tree keeps them.

In a preset a plug-in's file is given by its path from the preset (`./my_family.py:Regression`); the
resolved preset has the name that tells its contents (`core.plugins`), and what is known of it
without its code under `plug_ins`. The code lies beside it in the results tree, in
`plugins/<name>/<file>`: a sweep can be run again from its folder. Who only reads a results tree
runs none of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from metaphase.core import plugin_facts, plugins
from metaphase.core.plugins import NAMED_BY, PlugIn
from metaphase.core.settings import ConfigError

KEY = "plug_ins"  # of a preset
MAX_PLUG_INS = 100


def resolve(key: str, value: Any, folder: str) -> Any:
    """A setting's value, plug-ins in it replaced by their names once they are loaded. Names of
    those that come with the program, and whatever else stands there, stay.

    Args:
        value: as a preset says it; lists are resolved within.
        folder: where paths of plug-ins start.

    Raises:
        ConfigError: a plug-in can't be loaded.
    """
    kind = NAMED_BY.get(key)
    if kind is None:
        return value
    if isinstance(value, list):
        return [resolve(key, part, folder) for part in value]
    if not isinstance(value, str) or value in plugins.REGISTRIES[kind]:
        return value
    if plugins.is_reference(value):
        if "://" in folder:
            raise ConfigError(f"{key}: {value} is code, which isn't read from {folder}")
        return plugins.load(kind, value, folder)
    return plugins.entry_point(kind, value) or value


def named(cell: Mapping[str, Any], grids: Iterable[Mapping[str, list]]) -> list[PlugIn]:
    """The plug-ins that a resolved preset names, each once."""
    sections = _naming(cell, grids)
    found = {(p.kind, p.name): p for values in sections for p in plugins.in_use(values)}
    return list(found.values())


def own_in_use(cell: Mapping[str, Any], grids: Iterable[Mapping[str, list]]) -> list[str]:
    """Names of the settings that those bring which a resolved preset names."""
    sections = _naming(cell, grids)
    return sorted({name for values in sections for name in plugins.own_in_use(values)})


def _naming(
    cell: Mapping[str, Any], grids: Iterable[Mapping[str, list]]
) -> list[dict[str, list[str]]]:
    """The names of plug-ins in each section of a preset."""
    return [{key: _flat(section.get(key)) for key in NAMED_BY} for section in (cell, *grids)]


def check_named(sections: Iterable[Mapping[str, Any]]) -> None:
    """Raises ConfigError if a setting that names plug-ins names what isn't known."""
    for section in sections:
        for key, kind in NAMED_BY.items():
            for name in _flat(section.get(key)):
                if name not in plugins.REGISTRIES[kind]:
                    raise plugins.unknown(key, kind, name)


def _flat(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for part in value for name in _flat(part)]
    return [value] if isinstance(value, str) else []


def fitting(settings: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """A grid point's settings without those of the sweep's plug-ins, `own`, that it doesn't use."""
    others = set(own).difference(plugins.own_in_use(settings))
    return {key: value for key, value in settings.items() if key not in others}


def stored(of_sweep: Iterable[PlugIn]) -> list[dict[str, Any]]:
    """What a resolved preset says of its plug-ins."""
    said = []
    for p in of_sweep:
        facts = plugin_facts.facts(p)
        if p.entry_point:
            facts["entry_point"] = p.entry_point
        if p.source is not None:
            facts["sha256"] = hashlib.sha256(p.source).hexdigest()
        said.append(facts)
    return said


def place(kind: str, name: str) -> str:
    """Where a results tree keeps a plug-in's file."""
    return f"plugins/{kind}-{name.replace(':', '-')}/{name.partition(':')[0]}"


def make_known(said: Any, read: Callable[[str], bytes] | None) -> None:
    """Makes the plug-ins known of which a resolved preset says this.

    Args:
        read: gives a file's content by its path from the preset, and the code is loaded; None: what
            is known without code is enough.

    Raises:
        ConfigError: it isn't what `stored` says; or a file isn't there, or isn't what its name
            says; one line.
    """
    if not isinstance(said, list) or len(said) > MAX_PLUG_INS:
        raise ConfigError(f"{KEY}: not a list of at most {MAX_PLUG_INS} plug-ins")
    for facts in said:
        if not isinstance(facts, dict):
            raise ConfigError(f"{KEY}: one of them is not a mapping")
        plugin_facts.declare(facts)
        if read is None:
            continue
        kind, name = facts["kind"], facts["name"]
        plug_in = plugins.find(kind, name)
        if plug_in is None or plug_in.source is not None:  # loaded already
            continue
        if entry_point := facts.get("entry_point"):
            loaded = plugins.entry_point(kind, str(entry_point))
            wrong = f"{entry_point} isn't installed" if loaded is None else f"it is {loaded} here"
        else:
            source = read(place(kind, name))
            wrong = f"{place(kind, name)} has been changed"
            if "sha256" not in facts:
                wrong += ", or the preset lacks its sha256"
            if not _is_as_said(name, facts.get("sha256"), source):  # before any of it is run
                raise ConfigError(f"{kind}: {name} can't be had: {wrong}")
            loaded = plugins.load_source(kind, plug_in.file, plug_in.class_name, source)
        if loaded != name:
            raise ConfigError(f"{kind}: {name} can't be had: {wrong}")


def _is_as_said(name: str, sha256: Any, source: bytes) -> bool:
    """Whether a file's content is that of which a preset speaks: by its hash, or, where it says
    none, by the plug-in's name, unless that tells a version only."""
    digest, version = hashlib.sha256(source).hexdigest(), name.partition("@")[2]
    if sha256 is not None:
        return bool(digest == sha256)
    return not version.startswith("v") and digest.startswith(version)
