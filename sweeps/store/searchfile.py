"""The file `search.json`: the rounds of a sweep that seeks boundaries, written before they begin.

By it a run that goes on knows which cells are under way; it says too why they were chosen.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from metaphase.sweeps.store.storage import Storage

logger = logging.getLogger(__name__)

NAME = "search.json"
ANYWHERE = "anywhere"


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
        said = json.loads(storage.get(NAME))
        return [
            Round(
                {str(k): float(v) for k, v in one["octaves"].items()},
                one["standings"],
                str(one.get("reason", "")),  # which earlier versions didn't store
            )
            for one in said["rounds"]
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s/%s can't be read and begins anew: %s", storage, NAME, error)
        return []


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
