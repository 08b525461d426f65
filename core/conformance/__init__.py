"""Whether a plug-in keeps the promises that cells rest on: each check says in words what is broken
and what to do.

    metaphase check-plugin ./my_family.py:Regression

or in tests of one's own:

    from metaphase.core.conformance import checks, run

    NAME = plugins.load("task_family", "my_family.py:Regression")

    @pytest.mark.parametrize("check", checks("task_family"))
    def test_it_keeps_its_promises(check):
        run(check, "task_family", NAME)

The program's own families, datasets, architectures, metrics and rules pass the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metaphase.core.conformance import (
    architectures,
    datasets,
    families,
    metrics,
    predictors,
    rules,
)
from metaphase.core.conformance.subject import Broken, Subject
from metaphase.core.phase_rules import RULE
from metaphase.core.plugins import ARCHITECTURE, DATASET, METRIC, TASK_FAMILY

__all__ = ["Broken", "checks", "run"]

_CHECKS: dict[str, tuple[Callable[[Subject], None], ...]] = {
    TASK_FAMILY: (*families.CHECKS, *predictors.CHECKS),
    ARCHITECTURE: architectures.CHECKS,
    DATASET: datasets.CHECKS,
    METRIC: metrics.CHECKS,
    RULE: rules.CHECKS,
}


def checks(kind: str) -> list[str]:
    """The names of the checks of a kind of plug-in, in the order in which they make sense."""
    return [check.__name__ for check in _CHECKS[kind]]


def describe(kind: str, check: str) -> str:
    """What a check looks at, in a line."""
    [found] = [c for c in _CHECKS[kind] if c.__name__ == check]
    return (found.__doc__ or "").split("\n")[0].rstrip(".")


def run(
    check: str,
    kind: str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    data_root: str = "data",
) -> None:
    """Carries out one check.

    Args:
        check: one of `checks(kind)`.
        kind: of plug-in, one of `core.plugins.KINDS`, or "rule".
        name: by which cells ask for it, loaded or the program's own; of a rule what
            `core.phase_rules.load` takes.
        settings: of the cells that it is tried in, beside those of `Subject`.
        data_root: folder of the data sets.

    Raises:
        Broken: it breaks the promise; a sentence that says how and what to do.
        ConfigError: no cell can be made with it.
    """
    [found] = [c for c in _CHECKS[kind] if c.__name__ == check]
    found(Subject(kind, name, settings or {}, data_root))
