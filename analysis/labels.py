"""How numbers, phases and conditions are written in text, titles and file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from metaphase.core.phases import GENERALIZING, IDENTIFYING, MEMORIZING, UNTRAINED

LETTERS = {UNTRAINED: "U", MEMORIZING: "M", IDENTIFYING: "I", GENERALIZING: "G"}


def exponent_of_two(value: Any) -> int | None:
    """k where the value is 2^k with k of 0 or more, else None."""
    number = float(value)
    whole = int(number)
    if whole == number and whole > 0 and whole & (whole - 1) == 0:
        return whole.bit_length() - 1
    return None


def power_of_two(value: Any) -> str:
    """16 -> "2^4"; a number that is no power of two as it is."""
    exponent = exponent_of_two(value)
    return f"{float(value):g}" if exponent is None else f"2^{exponent}"


def condition_words(condition: Mapping[str, object]) -> list[str]:
    """A condition of `phases.split_conditions` in words: lstm, learning_rate=0.003."""
    return [str(v) if k == "architecture" else f"{k}={v}" for k, v in condition.items()]


def file_suffix(condition: Mapping[str, object]) -> str:
    """The end of a file's name that tells its condition from others; "" for {}."""
    return "".join(
        f"-{re.sub(r'[^A-Za-z0-9.=_-]+', '_', word)}" for word in condition_words(condition)
    )


def title(cells: pd.DataFrame, condition: Mapping[str, object]) -> str:
    """The sweep's name and the condition, as they stand above figures and texts."""
    return ", ".join([str(cells["sweep"].iloc[0]), *condition_words(condition)])
