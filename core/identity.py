"""The identity of a cell: a hash of its settings and of the revision of the numbers.

Plain Python, as `core.cell` is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from metaphase.core.settings import NONE, digest, neutral_of, settings_of

if TYPE_CHECKING:
    from metaphase.core.cell import Cell

# Revision of the numbers: raised whenever a cell's results change by a bit on the machine that they
# were made on. Results and checkpoints that don't say theirs are of revision 1.
NUMERICS = 2
# Identities before this revision, and some of it, are hashes of settings alone. Of the settings
# with a neutral value, these are in them: programs came to know one after the other.
_FIRST_IN_IDENTITY = 2
_FORMER_IDENTITIES = (("normalization", "mup_base_width"), ("normalization",), ())


def identity(cell: Cell, numerics: int | None = None) -> str:
    """16 hexadecimal digits, the same on every machine: a hash of `numerics`, this program's unless
    said, and of all settings but those that have their neutral value."""
    numerics = NUMERICS if numerics is None else numerics
    values = cell.to_dict()
    for key, neutral in neutral_of(type(cell)).items():
        if key in values and getattr(cell, key) == neutral:
            del values[key]
    return digest({"numerics": numerics, **values})


def earlier_identities(cell: Cell) -> tuple[str, ...]:
    """Identities under which earlier programs stored cells of these settings, the newest first:
    those of earlier numerics, and hashes without numerics, which may be of any."""
    numerics = reversed(range(_FIRST_IN_IDENTITY, NUMERICS))
    ids = [identity(cell, revision) for revision in numerics]
    if cell.own or settings_of(type(cell)).keys() - cell.to_dict().keys():
        return tuple(ids)  # of plug-ins, which those programs didn't know
    neutral = {k: s.neutral for k, s in settings_of(type(cell)).items() if s.neutral is not NONE}
    for known in _FORMER_IDENTITIES:
        unknown = {key: value for key, value in neutral.items() if key not in known}
        if not unknown or replace(cell, **unknown) == cell:
            settings = cell.to_dict()
            ids.append(digest({k: v for k, v in settings.items() if k not in unknown}))
    return tuple(ids)
