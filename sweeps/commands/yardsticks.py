"""Evaluates known learning algorithms on the sequences that a sweep's cells are evaluated on:

    python -m metaphase.sweeps.commands.yardsticks results/quickstart

They don't depend on a model, only on the settings that the sequences depend on
(`core.schema.YARDSTICK_SETTINGS`), so there is a file for each of these and each split of new tasks
in `<root>/<sweep>/yardsticks`, and what is there isn't computed again. On seen tasks nothing is
computed: knowing no task, they do as well there in expectation.

Sequences of a task family or images of a dataset of the user's need its code, which runs because
the command names it (`--plug-in`), not because the tree does.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaphase.core import plugins, schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.core.process import as_command
from metaphase.core.tasks import PROJECTED_IMAGES, TASK_FAMILIES
from metaphase.sweeps import plug_ins
from metaphase.sweeps.commands.parser import Parser, add_data_root, carry_out, sweep_parser

if TYPE_CHECKING:
    import torch

    from metaphase.sweeps.store.results import Results

_KINDS = (plugins.TASK_FAMILY, plugins.DATASET)  # whose code sequences need


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    return carry_out(_parser(), run, argv)


def _parser() -> Parser:
    parser = sweep_parser(
        "yardsticks",
        "Run known learning algorithms on the sequences that a sweep's cells are evaluated on.",
    )
    add_data_root(parser)
    parser.add_argument(
        "--plug-in",
        metavar="FILE.py:NAME",
        action="append",
        default=[],
        help="a task family or dataset of the sweep's, whose code is run. May be repeated",
    )
    return parser


def run(path: str, data_root: str, plug_in: Sequence[str] = ()) -> None:
    """Computes and stores what the sweep at `path` lacks.

    Args:
        plug_in: the user's families and datasets that are needed, as `core.plugins.load` takes
            them.

    Raises:
        ConfigError: no sweep there, a dataset can't be loaded, or code is needed that isn't named.
        OSError: the results can't be written.
    """
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.store.sweepfile import has_settings, read_sweep

    results = Results.at(path)
    if has_settings(results):
        read_sweep(results)  # by which plug-ins are known that cells name
    cells, all_read = results.read_cells()
    if not cells:
        read_sweep(results)  # it is one
        raise ConfigError(f"path: {results} has no finished cells")

    import torch  # here, as it takes seconds

    wanted = tables(cells)
    stored = results.yardstick_keys()
    missing = {key: table for key, table in wanted.items() if key not in stored}
    _load(plug_in)
    _check_loaded(results, (cell for cell, _ in missing.values()))
    if all_read:  # else they may be those of cells that will be trained again
        for key in stored - wanted.keys():  # of cells that are gone, or made with other constants
            results.remove_yardsticks(key)
    print(f"{results}: {len(missing)} of {len(wanted)} tables to compute", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for key, (cell, split) in missing.items():
        started = time.perf_counter()
        compute(results, key, cell, split, data_root, device)
        seconds = time.perf_counter() - started
        what = cell.dataset or cell.task_family
        print(
            f"  {what}, seed {cell.seed}, {split}: {seconds:.1f} s on {device}",
            flush=True,
        )


def _load(references: Iterable[str]) -> None:
    """Runs the code of families and datasets that the user names."""
    for reference in references:
        kinds = set(plugins.kinds_of(reference)) & set(_KINDS)
        if not kinds and not any(plugins.entry_point(kind, reference) for kind in _KINDS):
            raise ConfigError(f"--plug-in: {reference!r} is no task family and no dataset")


def _check_loaded(results: Results, cells: Iterable[Cell]) -> None:
    """Raises ConfigError if cells need code that isn't loaded; the line says what to name."""
    for needed in plugins.in_use_by(cells):
        if needed.kind not in _KINDS or needed.is_loaded:
            continue
        copy = Path(results.local_path or "") / plug_ins.place(needed.kind, needed.name)
        file = copy if results.local_path and copy.is_file() else Path(needed.file)
        raise ConfigError(
            f"{needed.kind}: {needed.name} is needed with its code, which runs where you name it: "
            f"--plug-in {file}:{needed.class_name}"
        )


def tables(cells: list[Cell]) -> dict[str, tuple[Cell, str]]:
    """The tables that belong to these cells: {key: (a cell that stands for its equals, split)}."""
    found: dict[str, tuple[Cell, str]] = {}
    for cell in cells:
        # What the sequences of new tasks don't depend on is set to what costs nothing.
        plain = replace(cell, num_tasks=1, identity_share=0.0, precision="fp32")
        for split in (schema.UNSEEN, *(f"{schema.UNSEEN}/{name}" for name in cell.unseen_datasets)):
            found.setdefault(table_key(cell, split), (plain, split))
    return found


def table_key(cell: Cell, split: str) -> str:
    """Hash of all that a table depends on: 16 hexadecimal digits."""
    from metaphase.core.evaluation.yardsticks import CONSTANTS

    settings = _settings(cell) | {"split": split, "n": cell.eval_sequences, "constants": CONSTANTS}
    settings["numerics"] = NUMERICS
    canonical = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def compute(
    results: Results, key: str, cell: Cell, split: str, data_root: str, device: torch.device
) -> None:
    """Evaluates all yardsticks on one split and stores the table."""
    from metaphase.core.datasets.images import load_images
    from metaphase.core.evaluation.family_yardsticks import evaluate_family
    from metaphase.core.evaluation.yardsticks import evaluate

    if cell.task_family == PROJECTED_IMAGES:
        rows = evaluate(cell, load_images(cell, data_root, device), split)
    else:
        rows = evaluate_family(cell, split, device)
    settings = _settings(cell)
    results.write_yardsticks(key, [{**settings, "split": split, **row} for row in rows])


def _settings(cell: Cell) -> dict[str, Any]:
    """What the sequences depend on, by column. Where there are no images, the family and its own
    settings do so too."""
    settings = {name: getattr(cell, name) for name in schema.YARDSTICK_SETTINGS}
    if cell.task_family != PROJECTED_IMAGES:
        own = TASK_FAMILIES[cell.task_family].own
        settings |= {"task_family": cell.task_family, **{key: getattr(cell, key) for key in own}}
    return settings


if __name__ == "__main__":
    sys.exit(main())
