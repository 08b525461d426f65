"""Trains a preset in this one process, for machines that can't have Ray; cheapest packs first.

    python -m tests.benchmarks.without_ray figure2-small --seconds 540

Results are the same tree that `metaphase run` writes; the same command trains what is missing.
Unlike there, a pack that isn't finished when the time is over starts again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from metaphase.core.cell import Cell
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.planning.packs import plan
from metaphase.sweeps.planning.workers import local_workers
from metaphase.sweeps.preset import load_preset
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if all cells are finished, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--root", default="results")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args(argv)
    sweep = load_preset(arguments.preset, arguments.set)
    results = Results(arguments.root, sweep.name)
    write_settings(results, sweep.settings)
    finished, workers = results.finished(), replace(local_workers(), count=1)
    packs = plan([cell for cell in sweep.cells if cell.cell_id not in finished], workers)
    started = time.monotonic()

    def over() -> bool:
        return time.monotonic() - started > arguments.seconds

    for number, pack in enumerate(reversed(packs), start=1):
        began = time.monotonic()
        rest: list[tuple[Cell, dict[str, Any] | None]] = [(cell, None) for cell in pack.cells]
        while rest:  # as cells are finished, the others go on as a smaller pack
            cells, states = zip(*rest, strict=True)
            trainer = PackTrainer(
                cells,
                device=workers.device,
                data_root=arguments.data_root,
                states=states if None not in states else None,
            )
            while not any(trainer.finished_cells()):
                if over() or not trainer.advance(over):
                    print(f"out of time in pack {number} of {len(packs)}, at step {trainer.step}")
                    return 1
            rest = []
            for cell, done, (row, curves), history, state in zip(
                trainer.cells,
                trainer.finished_cells(),
                trainer.results(),
                trainer.history,
                trainer.states(),
                strict=True,
            ):
                if done:
                    results.write_result(row, history, curves)
                else:
                    rest.append((cell, state))
        print(
            f"pack {number} of {len(packs)}: {len(pack.cells)} cells, "
            f"{time.monotonic() - began:.0f} s, planned {pack.seconds:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
