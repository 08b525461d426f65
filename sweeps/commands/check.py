"""Tries what runs need of this machine, and says what a run would use.

    metaphase check
    metaphase check figure2 --root s3://bucket/results

With a GPU, kernels and captured steps are compared with plain PyTorch and timed on the shapes of
the preset's cells, once for each kind of GPU, driver and version; a run does so by itself.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from metaphase.core.cell import ConfigError
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, add_places, carry_out

if TYPE_CHECKING:
    from metaphase.sweeps.execution.surroundings import Line
    from metaphase.sweeps.planning.workers import Workers


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns 0 if a run works here, 1 if it doesn't."""
    parser = Parser(
        prog="metaphase check",
        description="Try what runs need of this machine, and say what a run would use.",
    )
    add = parser.add_argument
    add(
        "preset",
        metavar="PRESET",
        nargs="?",
        default="quickstart",
        help="whose cells' shapes and data sets are tried (default: quickstart)",
    )
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="as for `metaphase run`")
    add_places(parser)
    add("--executor", choices=("ray", "local"), default="ray", help="what a run would use")
    add("--fresh", action="store_true", help="try kernels again that were tried here before")
    return carry_out(parser, _check, argv)


def _check(
    preset: str, set: list[str], root: str, data_root: str, executor: str, fresh: bool
) -> None:
    from metaphase.sweeps.execution import surroundings
    from metaphase.sweeps.planning.workers import local_workers
    from metaphase.sweeps.preset import load_preset

    cells = load_preset(preset, set).cells
    found: list[Workers] = []
    checks = {
        "software": surroundings.software,
        "compiler": surroundings.compiler,
        "GPU": lambda: surroundings.gpu(cells, data_root, fresh),
        "storage": lambda: surroundings.storage(root),
        "data sets": lambda: surroundings.data_sets(cells, data_root),
        "fonts": surroundings.fonts,
        "Ray": lambda: surroundings.ray_workers(found),
        "a run": lambda: surroundings.a_run(cells, *(found or [local_workers()])),
    }
    if executor == "local":
        del checks["Ray"]
    lines: Iterator[Line] = chain.from_iterable(
        surroundings.tried(what, check) for what, check in checks.items()
    )
    fails = 0
    with _quiet():
        for line, shown in surroundings.table(lines):
            fails += line.state == surroundings.FAILS
            print(shown, flush=True)
    if fails:
        raise ConfigError(f"{fails} of these fail: a run would, too")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, what the table says isn't logged as well."""
    loggers = [logging.getLogger(name) for name in ("metaphase", "matplotlib")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
