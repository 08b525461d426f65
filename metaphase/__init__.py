"""Phase diagrams of in-context learning, from Python (docs/python.md):

    import metaphase as mp

    sweep = mp.Sweep.preset("quickstart", model_size=[8, 32], num_tasks=[1, 64, 4096])
    results = mp.run(sweep, keep_models=True)   # the same call goes on, whatever stopped it
    results.cells                               # a DataFrame, a row a cell
    results.phase_map()

`metaphase.core` trains cells, `metaphase.sweeps` runs grids of them, `metaphase.analysis` reads
what they wrote. In the repository the three are folders at the top level, mapped into this package
by pyproject.toml; the links beside this file show the same to tools that read a checkout without
installing it (Python itself, type checkers, editors).

What is named here is imported when it is first used: importing this package takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaphase.analysis.load import ResultsError
    from metaphase.core.settings import ConfigError
    from metaphase.reading import SweepResults, classify, load, transitions
    from metaphase.training import Sweep, run

__all__ = [
    "ConfigError",
    "ResultsError",
    "Sweep",
    "SweepResults",
    "classify",
    "load",
    "run",
    "transitions",
]

_PLACES = {
    "ConfigError": "metaphase.core.settings",
    "ResultsError": "metaphase.analysis.load",
    "Sweep": "metaphase.training",
    "SweepResults": "metaphase.reading",
    "classify": "metaphase.reading",
    "load": "metaphase.reading",
    "run": "metaphase.training",
    "transitions": "metaphase.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
