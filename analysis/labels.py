"""How numbers, phases and conditions are written in text, titles and file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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


def are_powers_of_two(values: Iterable[Any]) -> bool:
    """Whether each value is 2^k with k of 0 or more."""
    return all(exponent_of_two(value) is not None for value in values)


def number(value: Any) -> str:
    """100000 -> "100,000"; no exponent and no digits that say nothing."""
    amount = float(value)
    if amount == int(amount):
        return f"{int(amount):,}"
    return f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:.3g}"


def short_number(value: Any) -> str:
    """As ticks show it, in three digits: 300, 1k, 16.4k, 2.5M; whole numbers below 10,000 that no k
    shortens are shown whole."""
    amount = float(value)
    if abs(amount) < 10_000 and amount == int(amount) and int(amount) % 1000:
        return str(int(amount))
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(amount) >= 0.9995 * unit:
            return f"{amount / unit:.3g}{letter}"
    return f"{amount:.3g}"


def power_of_two(value: Any) -> str:
    """16 -> "2^4"; a number that is no power of two as it is."""
    exponent = exponent_of_two(value)
    return number(value) if exponent is None else f"2^{exponent}"


def condition_words(condition: Mapping[str, object]) -> list[str]:
    """A condition of `phases.split_conditions` in words: lstm, learning_rate=0.003."""
    return [
        plain_name(v) if k == "architecture" else f"{k}={plain_name(v)}"
        for k, v in condition.items()
        if v == v  # a setting of a plug-in that others lack is NaN
    ]


def plain_name(value: object) -> str:
    """A setting's value as people say it: of a plug-in, `gated.py:Gated@1f2e3d4c5b6a`, its class,
    and enough of its contents to tell it from others, `Gated@1f2e3d`; a whole number without a
    point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return re.sub(r"[\w.-]+:(\w+)@([\w.-]{1,6})[\w.-]*", r"\1@\2", str(value))


def file_suffix(condition: Mapping[str, object]) -> str:
    """The end of a file's name that tells its condition from others; "" for {}."""
    return "".join(f"-{file_word(word)}" for word in condition_words(condition))


def file_word(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.=_-]+", "_", text)


def title(cells: pd.DataFrame, condition: Mapping[str, object]) -> str:
    """The sweep's name and the condition, as they stand above figures and texts."""
    return ", ".join([str(cells["sweep"].iloc[0]), *condition_words(condition)])
