"""What a person sees while a sweep runs: a live line in a terminal or a notebook, elsewhere a line
now and then.

23/56 cells  4 memorizing, 7 identifying, 12 generalizing  41%  0:38 gone, about 0:55 left
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metaphase.core import fast_paths
from metaphase.core.phase_rules import ROW_COLUMNS, outcome_of
from metaphase.core.phases import PHASES
from metaphase.sweeps.execution.clock import clock
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.results import LOST_WORKER, Results

logger = logging.getLogger(__name__)

ALIKE = 3  # packs that fail with the same error before anything is trained end the run
LIVE_SECONDS = 0.5  # between redraws in a terminal
LINE_SECONDS = 10.0  # at least between lines elsewhere ...
LINE_SHARE = 0.1  # ... and of the work


class Progress:
    """Follows the packs of a sweep by the few words that are told of them.

    Args:
        results: where the workers write.
        packs: what is trained; what is told of one names its index. More may be added.
        total: cells in the sweep.
        before: {cell_id: status} of those finished before.
        shown: whether anything is printed.
        said: what stands at the line's end, of a search.

    Attributes:
        training_seconds: what workers spent training and evaluating.
        finished: ids of the cells finished in this run.
        errors: {index of the pack: last error} of the packs that were given up.
        left: indices of the packs whose processes had to be left, which no cell is to blame for.
        too_large: indices of those of them that fill their device's memory.
        switched_off: {name: why} of fast paths that failed where they were used.
        works: whether anything has been trained before, in this run.
        config_error: one line, if no pack can go on, because the data can't be had, say.
        running: indices of the packs that have begun and not ended.
    """

    def __init__(
        self,
        results: Results,
        packs: Sequence[Pack],
        total: int,
        before: dict[str, str],
        shown: bool = True,
        said: str = "",
    ):
        self._shown, self.said = shown, said
        self.results, self.packs, self.total = results, list(packs), total
        self.training_seconds = 0.0
        self.finished: list[str] = []
        self.errors: dict[int, str] = {}
        self.left: set[int] = set()
        self.too_large: set[int] = set()
        self.switched_off: dict[str, str] = {}
        self.works = False
        self.config_error: str | None = None
        self.running: set[int] = set()
        self._begun: dict[int, float] = {}  # when the newest try of each pack began
        self._failed_in = 0.0  # seconds: the longest last try of the packs that were given up
        self._before = len(before)
        self._phases = Counter(dict.fromkeys(PHASES, 0))  # in this order
        self._fraction: dict[int, float] = {}  # of a pack's remaining work
        self._started = time.monotonic()
        self._shown_at, self._shown_share = self._started, 0.0
        self._count(before)

    # --- what is told ---

    def add(self, packs: Sequence[Pack], said: str) -> range:
        """There are more packs to train, and something else to say. Returns their indices."""
        self.packs += packs
        self.said = said
        self._shown_share = self.share - LINE_SHARE  # which is worth a line
        return range(len(self.packs) - len(packs), len(self.packs))

    def begin(self, index: int) -> None:
        """A pack's training begins."""
        self.running.add(index)
        self._begun[index] = time.monotonic()

    def note(self, index: int, report: Mapping[str, Any]) -> None:
        """A pack has got further: the entries of a `sweeps.execution.pack_run.Report`."""
        pack = self.packs[index]
        steps = sum(cell.steps for cell in pack.cells)
        before = pack.step * len(pack.cells) / steps
        self._fraction[index] = max(0.0, (report["fraction"] - before) / max(1e-9, 1 - before))
        self.training_seconds += report["training_seconds"]
        self.config_error = self.config_error or report["config_error"]
        for name, why in report["switched_off"].items():
            if name not in self.switched_off:
                self.switched_off[name] = why
                self.warn(fast_paths.warning(name, why))
        if report["poisoned"]:
            self.left.add(index)
        if report["too_large"]:
            self.too_large.add(index)
        if report["finished"]:
            self.finished += report["finished"]
            self._phases.update(report["finished"].values())
            logger.info("finished: %s", " ".join(report["finished"]))

    def end(self, index: int, error: str = "") -> None:
        """A pack's training ends; `error`, one line, if it is given up."""
        self.running.discard(index)
        if error:
            logger.error("pack %d is given up: %s", index, error)
            if not self.config_error:
                self.errors[index] = error
                now = time.monotonic()
                self._failed_in = max(self._failed_in, now - self._begun.get(index, now))
                self.config_error = self._all_alike()

    def _all_alike(self) -> str | None:
        """A line, if nothing has been trained and the first packs, the dearest and the cheapest
        among them, all ended with the same error, which isn't about memory: so will the others, and
        no cell is to blame. A pack that has run for longer than these took may be better off, and
        is waited for."""
        errors = list(self.errors.values())
        kinds = {re.sub("0x[0-9a-f]+|[0-9]+", "#", error) for error in errors}
        few = len(errors) < min(ALIKE, max(2, len(self.packs)))
        few = few or not {0, len(self.packs) - 1} <= self.errors.keys()
        if self.works or self.training_seconds or few or len(kinds) > 1:
            return None
        now = time.monotonic()
        if any(now - self._begun[index] > self._failed_in for index in self.running):
            return None
        if "memory" in errors[0].lower() or errors[0].startswith(LOST_WORKER):
            return None
        self.errors.clear()
        return (
            f"the first {len(errors)} packs all failed alike, so no cell is blamed: {errors[0]}. "
            "Once that is mended, the same command goes on"
        )

    def warn(self, line: str) -> None:
        """Says something that a person should know, above the live line."""
        logger.warning(line)
        if self._shown:
            self.close()
            print(line, file=sys.stderr, flush=True)

    def show(self) -> None:
        """Draws the live line again, or prints a line, if it is time to."""
        now = time.monotonic()
        if not self._shown:
            return
        if _is_live():
            if now - self._shown_at >= LIVE_SECONDS:
                width = shutil.get_terminal_size().columns - 1
                print("\r" + self.line()[:width].ljust(width), end="", flush=True)
                self._shown_at = now
        elif now - self._shown_at >= LINE_SECONDS and self.share >= self._shown_share + LINE_SHARE:
            print(self.line(), flush=True)
            self._shown_at, self._shown_share = now, self.share

    # --- what is known ---

    @property
    def share(self) -> float:
        """Share of this run's work that is done, by estimated cost."""
        total = sum(pack.seconds for pack in self.packs)
        done = sum(self.packs[i].seconds * part for i, part in self._fraction.items())
        return min(1.0, done / total) if total else 1.0

    def line(self) -> str:
        """Cells, phases, share of the work, time gone and left; of a search, which may train more
        or less than what is planned by now, no share and no time left."""
        gone = time.monotonic() - self._started
        parts = [f"{self._before + len(self.finished)}/{self.total} cells", self.phase_counts()]
        left = ""
        if not self.said:
            parts.append(f"{self.share:.0%}")
        if not self.said and self.share:
            left = f", about {clock(gone * (1 - self.share) / self.share)} left"
        parts += [f"{clock(gone)} gone{left}", self.said]
        return "  ".join(part for part in parts if part)

    def phase_counts(self) -> str:
        """Of the finished cells, such as "3 memorizing, 2 identifying"."""
        return ", ".join(f"{n} {phase}" for phase, n in self._phases.items() if n)

    def _count(self, cell_ids: Collection[str]) -> None:
        """Counts the phases of cells that were finished before, read from the results."""
        try:
            rows = self.results.read_rows(cell_ids, ("cell_id", "status", *ROW_COLUMNS))
        except OSError as error:  # it is only for show
            logger.warning("phases aren't counted: %s", error)
            return
        self._phases.update(outcome_of(row) for row in rows)

    def close(self) -> None:
        """Leaves the live line behind."""
        if self._shown and _is_live():
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)


def _is_live() -> bool:
    """Whether a line can be drawn again: in a terminal, and below a notebook's cell."""
    if sys.stdout.isatty():
        return True
    interactive = sys.modules.get("IPython")  # nobody else has made a notebook of this process
    shell = interactive.get_ipython() if interactive else None
    return shell is not None and hasattr(shell, "kernel")
