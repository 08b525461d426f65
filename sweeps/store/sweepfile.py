"""The file `sweep.yaml`: the preset of a sweep, resolved, with a checksum in its last line."""

from __future__ import annotations

import hashlib
from typing import Any

from metaphase.core import plugins
from metaphase.core.cell import ConfigError
from metaphase.sweeps import plug_ins
from metaphase.sweeps.preset import Sweep, dump_settings, parse_preset
from metaphase.sweeps.store.layout import check_layout, why_no_sweep
from metaphase.sweeps.store.storage import Storage

NAME = "sweep.yaml"


def write_settings(storage: Storage, settings: dict[str, Any]) -> None:
    """Stores the resolved preset of a sweep, its plug-ins first."""
    for facts in settings.get(plug_ins.KEY, ()):
        plug_in = plugins.find(facts["kind"], facts["name"])
        if plug_in is not None and plug_in.source is not None:
            place = plug_ins.place(plug_in.kind, plug_in.name)
            storage.put(place, plug_in.source, durable=True)
    text = dump_settings(settings).encode()
    storage.put(NAME, text + checksum_line(text), durable=True)


def has_settings(storage: Storage) -> bool:
    """Whether a preset is stored."""
    return storage.exists(NAME)


def read_sweep(storage: Storage) -> Sweep:
    """The sweep as its preset was stored. No code of plug-ins is run.

    Raises:
        ConfigError: there is none, or it can't be read; one line.
    """
    check_layout(storage)
    try:
        data = storage.get(NAME)
    except OSError as error:
        raise ConfigError(f"{storage}: {why_no_sweep(storage, error)}") from None
    place = f"{storage}/{NAME}"
    start = data.rstrip().rfind(b"\n") + 1
    if data[start:] != checksum_line(data[:start]):
        raise ConfigError(f"{place}: damaged or edited: its checksum doesn't match")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: not UTF-8 text") from None
    return parse_preset(text, default_name=storage.sweep, source=place, code=False)


def checksum_line(data: bytes) -> bytes:
    """The last line of a file that holds `data` before it."""
    return f"# sha256 {hashlib.sha256(data).hexdigest()}\n".encode()
