"""Kills, signals and faults at random moments over one small sweep, restarted by the same command
each time.

    python -m tests.tools.chaos --kills 50 --seed 0
    python -m tests.tools.chaos --kills 50 --seed 0 --s3   # a fifth of its requests has faults
    python -m tests.tools.chaos --kills 50 --seed 0 --image-size 16 --steps 9000  # both shapes
    python -m tests.tools.chaos --kills 20 --seed 0 --executor local
    python -m tests.tools.chaos --kills 20 --seed 0 --search  # half of the cells, by what they tell

What happens to a run, after a random time, is one of FATES; other things happen inside writes of
checkpoints, Parquet files and leases (tests/chaos_site): a process dies there, or is held for
longer than the lease. Whoever is stopped (SIGSTOP) goes on (SIGCONT) only when its lease, which
lasts LEASE_SECONDS here, is over and another command has taken the sweep over. In the end no cell
may be lost or there twice, and every number must be that of an undisturbed run, bit for bit;
a search has to propose the same cells.
Choices are repeatable from the seed, moments as far as the machine's load is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import yaml

from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import read_rounds
from tests import ROOT
from tests.tools.processes import descendants, kill

PRESET = {
    "description": "a small sweep to be killed",
    "cell": {
        "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 16, "key_size": 4,
        "warmup_steps": 5, "eval_every": 500, "eval_sequences": 64,
    },
    "grid": {"model_size": [4, 8], "num_tasks": [1, 64, 4096], "seed": [0, 1]},
}  # fmt: skip
SITE = ROOT / "tests" / "tools" / "chaos_site"
LEASE_SECONDS = 8.0
PATIENCE = 120.0  # seconds that a command may take to end: Ray starts for up to 30
FATES = {  # and how often they are chosen
    "a worker killed": 3,
    "all workers killed": 1,
    "the driver killed": 2,
    "the raylet killed": 1,
    "the gcs killed": 1,
    "all killed at once": 2,
    "SIGHUP": 1,
    "SIGQUIT": 1,
    "SIGINT twice": 1,
    "a worker stopped": 1,
    "the driver stopped": 2,
    "the tree stopped": 2,
}
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

    def __init__(
        self,
        folder: Path,
        seed: int,
        root: str,
        executor: str,
        fates: dict[str, int],
        search: bool = False,
        **settings: int,
    ):
        self.folder, self.root, self.seed, self.executor = folder, root, seed, executor
        self.fates = fates
        self.preset = folder / "chaos.yaml"
        preset: dict = PRESET | {"cell": PRESET["cell"] | settings}
        if search:
            preset["search"] = {"boundary": ["identifying", "generalizing"], "budget": 0.5}
            preset["grid"] = preset["grid"] | {"num_tasks": [1, 16, 256, 4096]}
        self.preset.write_text(yaml.safe_dump(preset))
        self.chance = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.runs = 0
        self.problems: list[str] = []
        self.outputs: dict[int, Path] = {}  # of the commands
        self.starting = self.undisturbed = 8.0  # seconds until it trains, and until it is done
        self._log = folder / "kills"
        self._log.touch()

    def start(self, root: str, disturbed: bool) -> subprocess.Popen:
        """The command a user types, in a process group of its own."""
        # Whatever else runs here, it is neither joined nor waited for.
        environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}
        if disturbed:
            path = f"{SITE}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
            environment |= {"PYTHONPATH": path, "CHAOS_SEED": f"{self.seed} {self.runs}"}
            environment |= {"CHAOS_SHARE": str(SHARE), "CHAOS_LOG": str(self._log)}
            environment |= {"CHAOS_LEASE": str(LEASE_SECONDS)}
        self.runs += 1
        path = self.folder / f"output-{self.runs}"
        command = [sys.executable, "-m", "metaphase.sweeps.run", str(self.preset), "--root", root]
        with path.open("w") as output:
            run = subprocess.Popen(
                [*command, "--executor", self.executor],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.outputs[run.pid] = path
        return run

    def count(self) -> int:
        """Kills so far, ours and those inside writes."""
        writes = Counter(line.rpartition(" ")[0] for line in self._log.read_text().splitlines())
        for moment, number in writes.items():
            self.killed[f"in a write ({moment})"] = number
        return self.killed.total()

    def measure(self, root: Path) -> bool:
        """Runs the command undisturbed, to see how long it takes. Returns whether it was done."""
        began = time.monotonic()
        run = self.start(str(root), disturbed=False)
        while not self._pass(run, 0.2):
            if not (root / "chaos" / "checkpoints").exists():
                self.starting = time.monotonic() - began
        self.undisturbed = time.monotonic() - began
        if run.returncode:
            print(self.outputs[run.pid].read_text(), file=sys.stderr)
        return run.returncode == 0

    def disturb(self, kills: int) -> None:
        """Runs the command until there were that many events, or nothing is left to train."""
        deck: list[str] = []
        done = False
        while self.count() < kills and not done:
            run = self.start(self.root, disturbed=True)
            if not deck:  # each comes as often as it should
                deck = [fate for fate, times in self.fates.items() for _ in range(times)]
                self.chance.shuffle(deck)
            fate = deck.pop()
            if self.chance.random() < 0.2:
                wait = self.chance.uniform(0.5, self.starting)
            else:  # while it trains
                most = max(2 * self.starting, min(60.0, 0.6 * self.undisturbed))
                wait = self.chance.uniform(self.starting, most)
            self._pass(run, wait)
            if run.poll() is None:
                self._meet(run, fate)
            done = self._end(run)
            print(f"{self.count():4} events, {self.runs} runs; last: {fate}", flush=True)

    def _pass(self, run: subprocess.Popen, seconds: float) -> bool:
        """Whether the command ends before."""
        latest = time.monotonic() + seconds
        while run.poll() is None and time.monotonic() < latest:
            time.sleep(0.1)
        return run.poll() is not None

    def _meet(self, run: subprocess.Popen, fate: str) -> None:
        """What happens to a run, until there is nothing left of it."""
        below = descendants(run.pid)
        workers = sorted(pid for pid, name in below.items() if "ray::" in name and ".train" in name)
        part = {"the raylet killed": "raylet/raylet", "the gcs killed": "gcs_server"}.get(fate, "")
        if fate == "a worker killed":
            for _ in range(self.chance.randint(1, 3)):  # what is lost is replaced meanwhile
                if workers and run.poll() is None:
                    self.killed[fate] += kill(self.chance.choice(workers))
                self._pass(run, self.chance.uniform(1, 6))
                below = descendants(run.pid)
                workers = [p for p, name in below.items() if "ray::" in name and ".train" in name]
        elif fate == "all workers killed":
            self.killed[fate] += sum(kill(pid) for pid in workers) > 0
            self._pass(run, self.chance.uniform(1, 10))
        elif part:
            parts = [pid for pid, name in below.items() if part in name]
            self.killed[fate] += sum(kill(pid) for pid in parts) > 0
            if parts and not self._pass(run, PATIENCE):
                self.problems.append(f"{fate}: long after that the command still runs")
        elif fate == "the driver killed":
            self.killed[fate] += kill(run.pid)  # the others find out by themselves
            return
        elif fate == "all killed at once":
            self.killed[fate] += sum([kill(p) for p in [run.pid, *below]]) > 0
        elif fate.startswith("SIG"):
            self.killed[fate] += 1
            run.send_signal(getattr(signal, fate.split()[0]))
            if "twice" in fate and not self._pass(run, self.chance.uniform(0, 2)):
                run.send_signal(signal.SIGINT)
            if not self._pass(run, PATIENCE):
                self.problems.append(f"{fate}: long after that the command still runs")
        elif fate == "a worker stopped":
            self.killed[fate] += len(workers) > 0
            with stopped(workers[:1]):
                self._pass(run, LEASE_SECONDS + 2)
            self._pass(run, self.chance.uniform(1, 6))
        else:
            self._take_over(run, [run.pid, *(below if fate == "the tree stopped" else ())], fate)
        for pid in [run.pid, *descendants(run.pid)]:
            kill(pid)

    def _take_over(self, run: subprocess.Popen, pids: list[int], fate: str) -> None:
        """Stops these processes of a run until the same command has taken over, and then some."""
        self.killed[fate] += 1
        with stopped(pids):
            time.sleep(LEASE_SECONDS + 1)
            second = self.start(self.root, disturbed=True)
            self._pass(second, self.chance.uniform(1, 2 * self.starting))
        if not self._pass(run, PATIENCE):
            self.problems.append(f"{fate}: the command runs on though another has taken over")
        self._pass(second, self.chance.uniform(0, self.starting))
        for pid in [second.pid, *descendants(second.pid)]:
            kill(pid)
        self._end(second)

    def _end(self, run: subprocess.Popen) -> bool:
        """Whether the command found nothing to do."""
        status = run.wait()
        text = self.outputs[run.pid].read_text()
        if "Traceback" in text:
            self.problems.append(f"a traceback, exit status {status}: {text[-2000:]}")
        return status == 0 and "Nothing to do" in text

    def finish(self) -> None:
        """The same command, undisturbed, until it is done."""
        for _ in range(3):
            run = self.start(self.root, disturbed=False)
            status = run.wait()
            if status == 0:
                return
            text = self.outputs[run.pid].read_text()
            print(f"exit status {status}: {text[-2000:]}", flush=True)
        self.problems.append("the command didn't finish the sweep")


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """They don't run while inside."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """The sweep's tables, every file of them, in one order, less what may differ."""
    found = {}
    for name, keys in KEYS.items():
        files = results.tables.read(name, results.tables.names(name))
        table = pd.concat([rows.to_pandas() for _, rows in files])
        assert not table.duplicated(keys).any(), f"{name}: a row is there twice"
        table = table.drop(columns=MAY_DIFFER & set(table))
        found[name] = table.sort_values(keys, ignore_index=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="events, of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, help="of a cell; default: 1,600 an event, up to 16,000"
    )
    parser.add_argument("--image-size", type=int, default=4, help="pixels; 16 makes batches dear")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument("--s3", action="store_true", help="results on a failing S3 on loopback")
    parser.add_argument("--faults", type=float, default=0.2, help="share of its requests")
    parser.add_argument("--fate", choices=FATES, help="only this")
    parser.add_argument("--search", action="store_true", help="the sweep is a search")
    arguments = parser.parse_args(argv)
    # A shell's job in the background ignores some of them, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_DFL)
    from tests.tools.s3 import failing_s3

    fates = dict(FATES)
    if arguments.executor == "local":  # which has neither
        fates.update({name: 0 for name in FATES if "worker" in name or "the raylet" in name})
        fates["the gcs killed"] = 0
    if arguments.fate:
        fates = {arguments.fate: 1}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        held = {"held": 0.01, "hold_seconds": LEASE_SECONDS + 2}
        failing = failing_s3(arguments.faults, **held) if arguments.s3 else None
        store = stack.enter_context(failing or contextlib.nullcontext())
        root = "s3://bucket/results" if store else str(folder / "disturbed")
        steps = arguments.steps or min(1600 * arguments.kills, 16_000)
        settings = {"steps": steps, "image_size": arguments.image_size}
        how = arguments.executor, fates, arguments.search
        chaos = Chaos(folder, arguments.seed, root, *how, **settings)

        if not chaos.measure(folder / "undisturbed"):
            return 1
        print(f"undisturbed: {chaos.undisturbed:.0f} s", flush=True)
        began = time.monotonic()
        undisturbed = Results(str(folder / "undisturbed"), "chaos")
        theirs, rounds = tables(undisturbed), read_rounds(undisturbed)
        sweeps = 0
        while chaos.count() < arguments.kills:  # a sweep after the other
            sweeps += 1
            chaos.root = f"{root}-{sweeps}"
            chaos.disturb(arguments.kills)
            chaos.finish()
            if store:
                store.failing, store.held = 0.0, 0.0
            ours = tables(Results(chaos.root, "chaos"))
            assert read_rounds(Results(chaos.root, "chaos")) == rounds, "a search went elsewhere"
            for name in theirs:
                pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True)
            if store:
                store.failing, store.held = arguments.faults, held["held"]
        seconds = time.monotonic() - began
        count = chaos.count()
        print(f"\n| | {'S3' if store else 'local'}, seed {arguments.seed}, {steps} steps |")
        print("| --- | --- |")
        for what, number in sorted(chaos.killed.items()):
            print(f"| {what} | {number} |")
        print(f"| events survived | {count} |")
        print(f"| runs of the command | {chaos.runs - 1} |")
        print(f"| seconds, undisturbed | {chaos.undisturbed:.0f} |")
        print(f"| seconds lost | {seconds - chaos.undisturbed:.0f} |")
        if store:
            faults = ", ".join(f"{number} {what}" for what, number in sorted(store.counts.items()))
            print(f"| requests to S3 | {store.requests} |")
            print(f"| of these with faults | {store.failed}: {faults} |")
        checked = sweeps * len(theirs["cells"])
        print(f"\ncells checked: {checked}, none lost, none twice, all numbers bit-equal")
    for problem in chaos.problems:
        print(f"PROBLEM: {problem}")
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
