"""How a duration is shown: 0:38, 12:05, 3:07:00."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours in front if there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
