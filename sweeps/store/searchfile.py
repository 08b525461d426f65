"""The file `search.json`: the rounds of a sweep that seeks boundaries, written before they begin.

By it a run that goes on knows which cells are under way; it says too why they were chosen.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.soundness import CELL_ID
from metaphase.sweeps.store.storage import Storage

logger = logging.getLogger(__name__)

NAME = "search.json"
ANYWHERE = "anywhere"
MOST_OCTAVES = 1000  # no grid has as many: a cell has up to 2^32 tasks


@dataclass(frozen=True)
class Round:
    """A round of a search.

    Attributes:
        octaves: {cell_id: what it was expected to take off intervals} of the cells proposed, best
            first; 0 of those that were trained again because a command said so.
        standings: where each phase was known to begin, one a row of the grid: `phase`, `row` in
            words, `low`, `middle` and `high` on log2 of the number of tasks (None where open, or
            beyond the grid), `width` in octaves, `done`.
        reason: why no cells are proposed, which is the end of the search; empty where some are.
    """

    octaves: dict[str, float]
    standings: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""


def read_rounds(storage: Storage) -> list[Round]:
    """The rounds so far; none where there is no such file. One that can't be read is logged: the
    next round is then proposed by the results alone."""
    try:
        return [
            Round(
                {_cell_id(key): _number(value) for key, value in one["octaves"].items()},
                [_standing(standing) for standing in one["standings"]],
                _text(one.get("reason", "")),  # which earlier versions didn't store
            )
            for one in json.loads(storage.get(NAME))["rounds"]
        ]
    except FileNotFoundError:
        return []
    except _ODD as error:
        logger.warning("%s/%s can't be read and begins anew: %s", storage, NAME, one_line(error))
        return []


# What a file raises in which anything may stand.
_ODD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _standing(said: dict[str, Any]) -> dict[str, Any]:
    """One of a round's standings, checked."""
    ends = {name: said[name] for name in ("low", "middle", "high")}
    if type(said["done"]) is not bool:
        raise ValueError("a standing's done is not true or false")
    return {
        **{name: _text(said[name]) for name in ("phase", "row")},
        **{name: None if end is None else _number(end) for name, end in ends.items()},
        "width": _number(said["width"]),
        "done": said["done"],
    }


def _cell_id(key: str) -> str:
    if not re.fullmatch(CELL_ID, key):
        raise ValueError(f"{shown(key)[:100]} can't be a cell_id")
    return key


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not -MOST_OCTAVES < value < MOST_OCTAVES:
        raise ValueError("it holds what is no number of octaves")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it holds what is no text")
    return shown(value)


def write_rounds(storage: Storage, rounds: list[Round]) -> None:
    """Stores all rounds."""
    text = json.dumps({"rounds": [asdict(one) for one in rounds]}, indent=1, allow_nan=False)
    storage.put(NAME, text.encode(), durable=True)


def num_rounds(rounds: list[Round]) -> int:
    """How many of them have cells: the others were ends."""
    return sum(bool(one.octaves) for one in rounds)


def interval(standing: dict[str, Any]) -> str:
    """In words, as exponents of the number of tasks."""
    low, high = standing["low"], standing["high"]
    if low is None and high is None:
        return ANYWHERE
    if low is None or high is None:
        return f"above {low:.1f}" if high is None else f"below {high:.1f}"
    return f"{low:.1f} to {high:.1f}"
