"""Does cost grow as the work does? The same tiny cells in sweeps of 28 to 1,000 of them.

    python -m tests.benchmarks.scaling

Prints for each sweep the wall seconds, those per cell, and what is not training: planning, writing
and reading Parquet, classifying and drawing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cells", type=int, nargs="*", default=[28, 56, 125, 250, 500, 1000])
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args(argv)
    print(f"{'cells':>6} {'run s':>8} {'a cell':>8} {'planning s':>11} {'plot s':>8}")
    for count in arguments.cells:
        with tempfile.TemporaryDirectory() as root:
            preset = Path(root) / "preset.yaml"
            preset.write_text(yaml.safe_dump(_preset(count, arguments.steps)))
            command = [sys.executable, "-m", "metaphase.sweeps.run", str(preset), "--root", root]
            run = _seconds(command)
            planning = _seconds([*command, "--dry-run"])
            plot = _seconds(
                [sys.executable, "-m", "metaphase.analysis.phase_plot", f"{root}/scaling"]
            )
        print(
            f"{count:>6} {run:>8.1f} {run / count:>8.3f} {planning:>11.1f} {plot:>8.1f}", flush=True
        )
    return 0


def _preset(count: int, steps: int) -> dict:
    """Four widths, and numbers of tasks and seeds to make about `count` cells."""
    seeds = max(1, round(count / 4 / 7))
    return {
        "name": "scaling",
        "description": "tiny cells",
        "cell": {
            "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 8, "key_size": 4,
            "steps": steps, "eval_every": steps, "eval_sequences": 64,
            "position_encoding": "learned",
        },
        "grid": {
            "model_size": [4, 6, 8, 10],
            "num_tasks": [4**k for k in range(7)],
            "seed": list(range(seeds)),
        },
    }  # fmt: skip


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
