"""Durations: how they are shown, 0:38, 12:05, 3:07:00, and how long cells took together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours in front if there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def worker_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """What rows of the cells table say that their cells took; what says nothing counts as 0."""
    said = (row["wall_seconds"] for row in rows)
    return math.fsum(s for s in said if s is not None and 0 <= s < math.inf)
