"""Kills at random moments over one small sweep, restarted by the same command each time.

    python -m tests.chaos --kills 50 --seed 0
    python -m tests.chaos --kills 50 --seed 0 --s3      # results on an S3 that fails 5% of requests
    python -m tests.chaos --kills 50 --seed 0 --image-size 16 --steps 9000  # packs of both shapes

A kill is a SIGKILL of a worker, the driver, the raylet, or all of them at once (a machine that is
gone), chosen at random, after a random time; others happen inside writes of checkpoints, Parquet
files and leases (tests/chaos_site). In the end no cell may be lost or there twice, and every number
must be that of an undisturbed run, bit for bit. Choices are repeatable from the seed, moments as
far as the machine's load is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from sweeps.storage import Results
from tests.processes import descendants, kill

PRESET = {
    "description": "a small sweep to be killed",
    "cell": {
        "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 16, "key_size": 4,
        "warmup_steps": 5, "eval_every": 500, "eval_sequences": 64,
    },
    "grid": {"model_size": [4, 8], "num_tasks": [1, 64, 4096], "seed": [0, 1]},
}  # fmt: skip
SITE = Path(__file__).parent / "chaos_site"
PATIENCE = 60.0  # seconds that a command may run on without its raylet: Ray starts for up to 30
SHARE = 0.02  # of writes in which the process dies
MAY_DIFFER = {"wall_seconds", "device", "versions"}
KEYS = {
    "cells": ["cell_id"],
    "history": ["cell_id", "step", "split"],
    "curves": ["cell_id", "split", "position"],
}


class Chaos:
    """One sweep, run and killed.

    Attributes:
        killed: how often what was killed.
        runs: how often the command was started.
        problems: what should not have been seen, in words.
    """

    def __init__(self, folder: Path, seed: int, root: str, **settings: int):
        self.folder, self.root, self.seed = folder, root, seed
        self.preset = folder / "chaos.yaml"
        self.preset.write_text(yaml.safe_dump(PRESET | {"cell": PRESET["cell"] | settings}))
        self.chance = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.runs = 0
        self.problems: list[str] = []
        self._log = folder / "kills"
        self._log.touch()

    def start(self, root: str, disturbed: bool) -> subprocess.Popen:
        """The command a user types, in a process group of its own."""
        environment = {**os.environ, "RAY_ADDRESS": "local"}  # whatever else runs here
        if disturbed:
            path = f"{SITE}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
            environment |= {"PYTHONPATH": path, "CHAOS_SEED": f"{self.seed} {self.runs}"}
            environment |= {"CHAOS_SHARE": str(SHARE), "CHAOS_LOG": str(self._log)}
        self._output = self.folder / f"output-{self.runs}"
        with self._output.open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeps.run", str(self.preset), "--root", root],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def count(self) -> int:
        """Kills so far, ours and those inside writes."""
        writes = Counter(line.rpartition(" ")[0] for line in self._log.read_text().splitlines())
        for moment, number in writes.items():
            self.killed[f"in a write ({moment})"] = number
        return self.killed.total()

    def disturb(self, kills: int, undisturbed: float) -> None:
        """Runs the command, which takes so many seconds, until there were that many kills."""
        while self.count() < kills:
            run = self.start(self.root, disturbed=True)
            self.runs += 1
            began = time.monotonic()
            fate = self.chance.choice(["worker", "worker", "driver", "raylet", "all"])
            if self.chance.random() < 0.2:
                wait = self.chance.uniform(0.5, 8)  # while it starts
            else:  # while it trains
                wait = self.chance.uniform(min(8, 0.4 * undisturbed), min(22, 0.9 * undisturbed))
            while run.poll() is None and time.monotonic() - began < wait:
                time.sleep(0.1)
            below = descendants(run.pid)
            if run.poll() is None and fate == "worker":
                self._kill_workers(run, below)
            elif run.poll() is None and fate == "raylet":
                raylets = [pid for pid, name in below.items() if "raylet/raylet" in name]
                self.killed["raylet"] += sum(kill(pid) for pid in raylets)
                began = time.monotonic()
                while raylets and run.poll() is None and time.monotonic() - began < PATIENCE:
                    time.sleep(0.1)
                if raylets and run.poll() is None:
                    self.problems.append("long after its raylet died the command still runs")
            elif run.poll() is None and fate == "driver":
                self.killed["driver"] += kill(run.pid)  # the others find out by themselves
            elif run.poll() is None:
                self.killed["all at once"] += sum([kill(p) for p in [run.pid, *below]]) > 0
            if run.poll() is None and fate not in ("driver", "all"):
                for pid in [run.pid, *descendants(run.pid)]:
                    kill(pid)
            self._end(run)

    def _kill_workers(self, run: subprocess.Popen, below: dict[int, str]) -> None:
        """One after the other; what is lost is replaced meanwhile."""
        for _ in range(self.chance.randint(1, 3)):
            workers = sorted(
                pid for pid, name in below.items() if "ray::" in name and ".train" in name
            )
            if workers and run.poll() is None:
                self.killed["worker"] += kill(self.chance.choice(workers))
            time.sleep(self.chance.uniform(1, 6))
            below = descendants(run.pid)

    def _end(self, run: subprocess.Popen) -> None:
        status = run.wait()
        text = self._output.read_text()
        if "Traceback" in text:
            self.problems.append(f"a traceback, exit status {status}: {text[-2000:]}")
        if status == 0 and "Nothing to do" in text:
            raise SystemExit("all cells were finished before there were kills enough: more --steps")

    def finish(self) -> None:
        """The same command, undisturbed, until it is done."""
        for _ in range(3):
            status = self.start(self.root, disturbed=False).wait()
            self.runs += 1
            if status == 0:
                return
            print(f"exit status {status}: {self._output.read_text()[-2000:]}", flush=True)
        self.problems.append("the command didn't finish the sweep")


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """The sweep's tables, every file of them, in one order, less what may differ."""
    found = {}
    for name, keys in KEYS.items():
        files = results._read_files(name, results.table_files(name))
        table = pd.concat([rows.to_pandas() for _, rows in files])
        assert not table.duplicated(keys).any(), f"{name}: a row is there twice"
        table = table.drop(columns=MAY_DIFFER & set(table))
        found[name] = table.sort_values(keys, ignore_index=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of a cell; default: 1,600 a kill")
    parser.add_argument("--image-size", type=int, default=4, help="pixels; 16 makes batches dear")
    parser.add_argument("--s3", action="store_true", help="results on a failing S3 on loopback")
    arguments = parser.parse_args(argv)
    from tests.s3 import failing_s3

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        store = stack.enter_context(failing_s3() if arguments.s3 else contextlib.nullcontext())
        root = "s3://bucket/results" if store else str(folder / "disturbed")
        steps = arguments.steps or 1600 * arguments.kills
        settings = {"steps": steps, "image_size": arguments.image_size}
        chaos = Chaos(folder, arguments.seed, root, **settings)

        began = time.monotonic()
        if chaos.start(str(folder / "undisturbed"), disturbed=False).wait():
            print(chaos._output.read_text(), file=sys.stderr)
            return 1
        undisturbed = time.monotonic() - began
        print(f"undisturbed: {undisturbed:.0f} s", flush=True)
        began = time.monotonic()
        chaos.disturb(arguments.kills, undisturbed)
        chaos.finish()
        seconds = time.monotonic() - began

        theirs = tables(Results(str(folder / "undisturbed"), "chaos"))
        ours = tables(Results(root, "chaos"))
        for name in theirs:
            pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True)
        if store:
            print(f"requests to S3: {store.requests}, of which failed: {store.failed}")
        count = chaos.count()
        kinds = ", ".join(f"{number} {what}" for what, number in sorted(chaos.killed.items()))
        print(f"kills survived: {count} ({kinds})")
        print(f"runs of the command: {chaos.runs}")
        print(f"seconds lost: {seconds - undisturbed:.0f}")
        print(
            f"cells checked: {len(theirs['cells'])}, none lost, none twice, all numbers bit-equal"
        )
    for problem in chaos.problems:
        print(f"PROBLEM: {problem}")
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
