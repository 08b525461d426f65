"""Cells that go on from kept models of cells with fewer steps.

The kept state becomes a checkpoint of the longer cell, before anything is planned: all that comes
after treats it as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps.store.models import DamagedModelError
from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)


def origins(results: Results, cells: Iterable[Cell]) -> dict[str, Cell]:
    """{cell_id: the cell with a kept model that differs from it in fewer steps alone}, by names
    alone; of several the one with the most steps. A cell whose own last model is kept, while its
    results are lost, is its own."""
    kept = results.models.steps()
    steps = sorted({step for of_cell in kept.values() for step in of_cell}, reverse=True)
    found: dict[str, Cell] = {}
    for cell in cells:
        for step in (step for step in steps if step <= cell.steps):
            try:
                shorter = replace(cell, steps=step)
            except ConfigError:  # a name is what anybody gave a file: no such cell was trained
                continue
            if step in kept.get(shorter.cell_id, ()):
                found[cell.cell_id] = shorter
                break
    return found


def can_continue(cell: Cell, origin: Cell) -> bool:
    """Whether the training of `origin` is the beginning of the cell's: a learning rate that falls
    until `steps` is another one from the first step on."""
    return cell == origin or cell.learning_rate_schedule == "constant"


def continued_steps(results: Results, cells: Iterable[Cell]) -> dict[str, int]:
    """{cell_id: the step from which it would go on}, by names alone."""
    by_id = {cell.cell_id: cell for cell in cells}
    found = origins(results, by_id.values()).items()
    return {id_: origin.steps for id_, origin in found if can_continue(by_id[id_], origin)}


def adopt_models(results: Results, cells: Iterable[Cell], say: Callable[..., None] = print) -> None:
    """Gives cells that are to be trained the checkpoints that kept models are for them, unless they
    have later ones, and says how many go on so, and how many can't.

    A model that can't be used is told, and its successor is trained from the start; the file is
    removed if it is damaged, and stays if it is somebody's.
    """
    by_id = {cell.cell_id: cell for cell in cells}
    checkpoints = results.checkpoints.steps()
    going_on = others = 0
    for cell_id, origin in origins(results, by_id.values()).items():
        cell, step = by_id[cell_id], origin.steps
        if not can_continue(cell, origin):
            others += 1
        elif checkpoints.get(cell_id, 0) < step:
            try:
                state = results.models.read(origin.cell_id, step)[1]
            except FileNotFoundError:
                continue
            except DamagedModelError as error:
                results.models.discard(origin.cell_id, step)
                logger.warning("%s: a kept model is removed: %s", results, error)
                say(f"{results}: the model of cell {origin.cell_id} is damaged; it is removed")
                continue
            except ValueError as error:
                say(f"{results}: the model of cell {origin.cell_id} can't be gone on from: {error}")
                continue
            if cell != origin:
                from metaphase.core.trained import continued

                try:
                    state = continued(cell, state)
                except ValueError as error:
                    logger.info("%s isn't continued: %s", origin.cell_id, error)
                    continue
            results.checkpoints.write(state)
            going_on += 1
    if going_on:
        say(f"{going_on} cells go on from kept models.")
    if others:
        say(
            f"{others} cells are trained from their first step, though models with fewer steps are "
            "kept: their learning_rate_schedule depends on steps"
        )
