"""What is known of plug-ins without their code: enough to read, count and name cells that use them,
not to train any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from metaphase.core.architectures import Architecture
from metaphase.core.datasets import DatasetInfo
from metaphase.core.evaluation import Metric
from metaphase.core.plugins import (
    ARCHITECTURE,
    DATASET,
    KINDS,
    METRIC,
    NAME,
    REGISTRIES,
    ROLES,
    TASK_FAMILY,
    PlugIn,
    known,
)
from metaphase.core.settings import ConfigError, as_line, plain_setting, setting_from_plain
from metaphase.core.taken_names import check_metric, check_own
from metaphase.core.tasks import Family


def facts(plug_in: PlugIn) -> dict[str, Any]:
    """What is known of a plug-in without its code, as plain data that `declare` takes."""
    entry = REGISTRIES[plug_in.kind][plug_in.name]
    settings = {name: plain_setting(declared) for name, declared in plug_in.own.items()}
    said: dict[str, Any] = {"kind": plug_in.kind, "name": plug_in.name, "own": settings}
    for key in _FACTS[plug_in.kind]:
        value = getattr(entry, key)
        said[key] = list(value) if isinstance(value, tuple) else value
    return said


def declare(said: Mapping[str, Any]) -> None:
    """Makes a plug-in known by its facts, without its code: cells can be read and counted, not
    trained. One that is loaded stays as it is.

    Raises:
        ConfigError: these are no facts.
    """
    kind, name = said.get("kind"), said.get("name")
    if kind not in KINDS or not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"plug_ins: {kind!r} {name!r} is no plug-in")
    if name in REGISTRIES[kind]:
        return
    try:
        own = {
            str(key): setting_from_plain(key, value, ROLES[kind])
            for key, value in dict(said["own"]).items()
        }
        check_own(own)
        values = {key: said[key] for key in _FACTS[kind] if key in said}  # later ones may lack
        REGISTRIES[kind][name] = _DECLARED[kind](name, own, values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"plug_ins: what is said of {name} can't be: {as_line(error)}") from None
    known[kind, name] = PlugIn(kind, name, own)


def _not_loaded(name: str) -> Any:
    def fail(*_: Any) -> Any:
        raise ConfigError(f"the plug-in {name} isn't loaded, only what is known of it")

    return fail


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(value)


def _declared_family(name: str, own: dict, said: dict) -> Family:
    fail = _not_loaded(name)
    return Family(name, _texts(said["settings"]), fail, fail, own, loaded=False)


def _declared_architecture(name: str, own: dict, said: dict) -> Architecture:
    context = said.get("has_context") is not False
    uses = _texts(said["settings"])
    return Architecture(name, uses, has_context=context, own=own, make=_not_loaded(name))


def _declared_dataset(name: str, own: dict, said: dict) -> DatasetInfo:
    counts, downloaded = said.pop("heldout_counts"), said.pop("downloaded", False)
    if type(downloaded) is not bool:
        raise ValueError(f"{downloaded!r} is neither true nor false")
    for value in (*(v for v in said.values() if v is not None), *counts):
        if type(value) is not int or value < 1:
            raise ValueError(f"{value!r} is not a number of something")
    return DatasetInfo(
        **said, heldout_counts=tuple(counts), downloaded=downloaded, own=own,
        load=_not_loaded(name),
    )  # fmt: skip


def _declared_metric(name: str, own: dict, said: dict) -> Metric:
    column = str(said["column"])
    check_metric(name, column)
    return Metric(column, _not_loaded(name), own)


# Attributes of a registry's entries that are known without code.
_FACTS = {
    TASK_FAMILY: ("settings",),
    ARCHITECTURE: ("settings", "has_context"),
    DATASET: tuple(f.name for f in fields(DatasetInfo) if f.name not in ("own", "load")),
    METRIC: ("column",),
}
_DECLARED: dict[str, Any] = {
    TASK_FAMILY: _declared_family,
    DATASET: _declared_dataset,
    ARCHITECTURE: _declared_architecture,
    METRIC: _declared_metric,
}
