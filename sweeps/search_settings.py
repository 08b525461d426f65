"""How a sweep seeks boundaries: what a preset says under `search`, and `metaphase run --boundary`.

search: boundary              # of generalizing, to within an octave, a fifth of the cells at most
search:
  boundary: [identifying, generalizing]
  target_octaves: 0.5
  budget: {operations: 0.1}   # or {cells: 0.2}, or {hours: 8}: of workers, training
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from metaphase.core.phases import GENERALIZING, IDENTIFYING
from metaphase.core.settings import ConfigError
from metaphase.sweeps.yaml12 import parse_yaml, show

KEY = "search"
PHASES = (IDENTIFYING, GENERALIZING)  # whose beginning can be sought
KINDS = ("cells", "operations", "hours")  # of budgets; the first two are shares of the grid's


@dataclass(frozen=True)
class Search:
    """What is sought, and when it ends.

    Attributes:
        phases: those whose beginning is sought.
        target_octaves: how wide every row's interval may be.
        budget: the most that may be spent, in `kind`.
        kind: of `KINDS`.
    """

    phases: tuple[str, ...] = (GENERALIZING,)
    target_octaves: float = 1.0
    budget: float = 0.2
    kind: str = "cells"


def parse(said: Any) -> Search | None:
    """What `search` says in a preset; None says that all cells are trained.

    Raises:
        ConfigError: it can't be, in one line.
    """
    if said is None:
        return None
    if said == "boundary":
        return Search()
    if not isinstance(said, dict):
        raise ConfigError(f"search: {show.repr(said)} is not one of boundary, or a mapping of it")
    keys = ("boundary", "target_octaves", "budget")
    for key in said:
        if key not in keys:
            raise ConfigError(
                f"search: {show.repr(key)}: unknown key; known keys: {', '.join(keys)}"
            )
    found = Search()
    if "boundary" in said:
        phases = said["boundary"] if isinstance(said["boundary"], list) else [said["boundary"]]
        for phase in phases:
            if phase not in PHASES:
                raise ConfigError(
                    f"search: boundary: {show.repr(phase)} is not one of {', '.join(PHASES)}"
                )
        if not phases or len(set(phases)) < len(phases):
            raise ConfigError(f"search: boundary: {show.repr(phases)}: name each phase once")
        found = replace(found, phases=tuple(p for p in PHASES if p in phases))
    if "target_octaves" in said:
        found = with_target(found, said["target_octaves"], "search: target_octaves")
    if "budget" in said:
        found = with_budget(found, said["budget"], "search: budget")
    return found


def with_target(search: Search, octaves: Any, name: str) -> Search:
    """The search with another target. Errors begin with `name`."""
    return replace(search, target_octaves=_positive(octaves, name, math.inf))


def with_budget(search: Search, said: Any, name: str) -> Search:
    """The search with another budget: a share of the cells, or {kind: amount}; also as the text
    "operations=0.1" of a command line."""
    if isinstance(said, str):
        kind, equals, amount = said.partition("=")
        said = {kind.strip(): parse_yaml(amount)} if equals else parse_yaml(said)
    if isinstance(said, dict):
        if len(said) != 1 or next(iter(said)) not in KINDS:
            raise ConfigError(f"{name}: {show.repr(said)} is not one of {', '.join(KINDS)}")
        [(kind, amount)] = said.items()
    else:
        kind, amount = "cells", said
    most = math.inf if kind == "hours" else 1.0
    return replace(search, budget=_positive(amount, f"{name}: {kind}", most), kind=kind)


def check_budget(search: Search, cells: int, cheapest: float) -> None:
    """Raises ConfigError where the budget doesn't suffice for one cell of a grid.

    Args:
        cells: how many the grid has.
        cheapest: the share of the grid's operations that its cheapest cell takes.
    """
    least = {"cells": 1 / cells, "operations": cheapest}.get(search.kind, 0.0)
    if search.budget < least * (1 - 1e-9):
        raise ConfigError(
            f"search: budget: {search.kind}: {search.budget:g} of a grid of {cells} cells is less "
            f"than one cell, {least:.2g}"
        )


def _positive(value: Any, name: str, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        allowed = "above 0" + (f", at most {most:g}" if most < math.inf else "")
        raise ConfigError(f"{name}: {show.repr(value)} is not a number {allowed}")
    if not math.isfinite(value):
        raise ConfigError(f"{name}: {show.repr(value)} is not a finite number")
    return float(value)
