"""One run of a sweep: the cells that its results lack are trained, whoever asks for it and whatever
trains them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.sweeps.planning import missing as lacks
from metaphase.sweeps.planning.continuing import adopt_models
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.search_settings import check_budget
from metaphase.sweeps.store import earlier
from metaphase.sweeps.store.layout import clear_way
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings

if TYPE_CHECKING:
    from metaphase.sweeps.execution.rounds import Outcome
    from metaphase.sweeps.search.seeking import Seeking


class SweepRun:
    """A run, begun by looking at what there is; nothing is written before `train`.

    Attributes:
        sweep, results: what is trained, and where its results are.
        missing: the cells that will be trained, as far as can be seen without the lease.
        again: those of them that were trained before, which a search trains before it seeks: forced
            ones, and failed ones.
        status: {cell_id: status} of the finished cells.

    Args:
        forced: cells of which all that is stored is removed, so that they are trained anew.
        retry_failed: whether cells that failed are trained again.
        other_numerics: "refuse", "keep" or "renew" finished cells of other numerics.
        say: prints what is worth knowing, as `print` does.
        seeking: which of the missing cells to train, and when to stop; None: all of them.

    Raises:
        ConfigError: cells of other numerics are there and refused, the tree is no sweep's, or a
            search would begin with a budget of less than a cell.
        OSError: the storage fails.
    """

    def __init__(
        self,
        sweep: Sweep,
        results: Results,
        *,
        forced: Collection[Cell] = (),
        retry_failed: bool = False,
        other_numerics: str = "refuse",
        say: Callable[..., None] = print,
        seeking: Seeking | None = None,
    ) -> None:
        self.sweep, self.results, self.seeking = sweep, results, seeking
        self._retry_failed, self._say = retry_failed, say
        self.status, self._damaged, numerics = lacks.survey(results, sweep.cells)
        if self._damaged:
            say(
                f"{results}: rows of {len(self._damaged)} finished cells are lost or can't be read",
                file=sys.stderr,
            )
        if seeking is not None and not self.status:
            cost_C = seeking.space.cost_C
            check_budget(seeking.search, len(sweep.cells), cost_C.min() / seeking.space.total)
        self._stored = lacks.say_what_changed(sweep, results, self.status, say)
        others = [c for c in sweep.cells if numerics.get(c.cell_id, NUMERICS) != NUMERICS]
        self._forced = [*forced, *(others if other_numerics == "renew" else ())]
        gone = {cell.cell_id for cell in self._forced}
        kept = {id_: said for id_, said in self.status.items() if id_ not in gone}
        self.missing = lacks.missing_cells(sweep, results, kept, retry_failed)
        self.again = self._again(self.missing, kept)
        left = {c.cell_id: numerics[c.cell_id] for c in others if c.cell_id in kept}
        lacks.tell_numerics(results, left, self.missing, other_numerics == "refuse", say)

    def nothing_to_do(self) -> str:
        """Why nothing is to be trained; empty where something is."""
        if not self.missing:
            return f"all {len(self.sweep.cells)} cells of {self.sweep.name} are finished"
        if self.seeking is None or self.again:
            return ""
        return self.seeking.is_over(self.results)

    def tidy_up(self) -> None:
        """Although there is nothing to train: stores the preset where there is none, and removes
        what a driver that was killed has left. Where another driver runs the sweep, or nothing can
        be written, that is left for later.

        Raises:
            ConfigError: there is no preset, and none can be stored.
            OSError: the storage fails.
        """
        results = self.results
        released = results.claim.lease() is None
        if self._stored and released and not results.left_over():
            return
        try:
            lease = acquire(results)  # which takes the other's half-written files away
        except ConfigError:
            if self._stored:
                return
            raise
        try:
            if not self._stored:
                write_settings(results, self.sweep.settings)
            for cell_id in results.left_over():
                results.checkpoints.remove(cell_id)
        finally:
            lease.release()

    def train(self, executor: Callable[..., Outcome]) -> Outcome:
        """Makes the sweep ours and trains what is missing.

        Args:
            executor: called as `executor(results, cells, lease=, total=, before=)`, as
                `sweeps.execution.local.train` is; for a search with `propose=`, and no cells but
                those that are trained again.

        Raises:
            ConfigError: another driver runs the sweep, or nothing can be written there.
            OSError: the storage fails.
        """
        sweep, results = self.sweep, self.results
        lease = acquire(results, seeks=self.seeking is not None)
        try:
            results.check_writable()
            # Again, now that it is ours: another driver may have finished it, or merged its files.
            lost = bool(self._damaged)
            found = lacks.survey(results, sweep.cells)[0] if lost else results.finished()
            gone = {cell.cell_id for cell in self._forced}
            finished = earlier.by_cell_id(found, sweep.cells).items()
            self.status = {id_: said for id_, said in finished if id_ not in gone}
            missing = lacks.missing_cells(sweep, results, self.status, self._retry_failed)
            self.again = self._again(missing, self.status)
            if self.seeking is not None and self.again:
                self.seeking.begin_with(results, self.again)  # before what is stored of them goes
            if self._forced:
                results.remove_results(earlier.every_id(self._forced))
                self._say(
                    f"Removed what was stored of {len(self._forced)} cells, to train them anew."
                )
            before = self._before(missing)
            clear_way(results, missing)
            missing_ids = {cell.cell_id for cell in missing}
            ids = earlier.every_id(missing) if results.tables.names("cells") else missing_ids
            results.reopen(ids)
            earlier.adopt_checkpoints(results, missing)
            adopt_models(results, missing, self._say)
            write_settings(results, sweep.settings)
            options: dict[str, Any] = {"lease": lease, "total": len(sweep.cells), "before": before}
            if self.seeking is not None:
                options["propose"] = self.seeking.on(results)
                missing = self.again
            outcome = executor(results, missing, **options)
            self.status = earlier.by_cell_id(results.finished(), sweep.cells)
        finally:
            lease.release()  # which sees whether it still is ours
        outcome.lost = lease.lost
        return outcome

    def _again(self, missing: Collection[Cell], status: dict[str, str]) -> list[Cell]:
        forced = {cell.cell_id for cell in self._forced}
        failed = {id_ for id_, said in status.items() if said == schema.FAILED}
        return [cell for cell in missing if cell.cell_id in forced | failed]

    def _before(self, missing: Collection[Cell]) -> dict[str, str]:
        """{the identity under which it is stored: status} of the grid's finished cells."""
        missing_ids = {cell.cell_id for cell in missing}
        finished = [cell for cell in self.sweep.cells if cell.cell_id not in missing_ids]
        stored = earlier.stored_as(finished, self.results.finished())
        return {stored.get(c.cell_id, c.cell_id): self.status[c.cell_id] for c in finished}
