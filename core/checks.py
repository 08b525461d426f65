"""What values of a cell's settings are impossible, beyond what each one's declaration says.

Plain Python, as `core.cell` is.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.datasets import DATASETS, DatasetInfo
from metaphase.core.evaluation_steps import MAX_EVALUATIONS, count_evaluations
from metaphase.core.settings import ConfigError, settings_of
from metaphase.core.tasks import TASK_FAMILIES

if TYPE_CHECKING:
    from metaphase.core.cell import Cell

MAX_NUMBERS = 10**12  # of a model, of a step: what no device holds


def check_values(cell: Cell, unused: AbstractSet[str]) -> None:
    """Raises ConfigError if a value is impossible, alone or together with the others.

    Args:
        cell: with what follows from other settings resolved.
        unused: the settings that its architecture doesn't use or its task family doesn't know.
    """
    info = None if "dataset" in unused else DATASETS[cell.dataset]
    for key, declared in settings_of(type(cell)).items():
        if declared.least is not None and key not in unused:
            of_data = info.num_classes if info and key == "num_classes" else None
            declared.check_range(getattr(cell, key), of_data)
    evaluations = count_evaluations(cell.eval_every, cell.eval_growth, cell.steps)
    if evaluations > MAX_EVALUATIONS:
        at_least = "" if cell.eval_growth == 1 else " or more"
        raise ConfigError(
            f"eval_every: {cell.eval_every} makes {evaluations} evaluations{at_least} "
            f"of {cell.steps} steps; allowed: {MAX_EVALUATIONS}"
        )
    least = ARCHITECTURES[cell.architecture].least_key_size
    if cell.key_size < least and "key_size" not in unused:
        raise ConfigError(
            f"key_size: {cell.key_size} (of {cell.num_heads} heads, model_size "
            f"{cell.model_size}) leaves {cell.architecture} no memory but signs; allowed: "
            f"{least} or more"
        )
    if cell.position_encoding == "rotary" and cell.key_size % 2:
        raise ConfigError(
            f"key_size: {cell.key_size} is odd; rotary positions rotate pairs, so choose an "
            "even key_size or position_encoding: learned"
        )
    units = cell.mlp_ratio * cell.model_size
    used = "mlp_ratio" not in unused
    if used and (cell.mlp_units < 1 or abs(units - cell.mlp_units) > 1e-6):
        raise ConfigError(
            f"mlp_ratio: {cell.mlp_ratio} of model_size {cell.model_size} is {units:.6g} hidden "
            "units; allowed: what makes a whole number of them"
        )
    if info is not None:
        _check_images(cell, info)
    elif (
        TASK_FAMILIES[cell.task_family].loaded
        and not cell.problem.features  # which is refused here where it can't be
        and cell.token_format == "interleaved"
    ):
        raise ConfigError(
            f"token_format: interleaved has tokens of inputs alone, and {cell.task_family} has no "
            "inputs; allowed: shifted"
        )


def _check_images(cell: Cell, info: DatasetInfo) -> None:
    """Raises ConfigError if the datasets have too few images or classes."""
    fewest = min(info.num_train, info.num_heldout) * cell.num_classes // info.num_classes // 2
    if cell.sequence_length > fewest:
        raise ConfigError(
            f"sequence_length: {cell.sequence_length} is out of range; {cell.dataset} with "
            f"{cell.num_classes} classes allows 2 to {fewest} distinct images a sequence"
        )
    if cell.burstiness and cell.burst_classes >= cell.num_classes:
        raise ConfigError(
            f"burst_classes: {cell.burst_classes} is out of range; with {cell.num_classes} classes "
            f"allowed: 1 to {cell.num_classes - 1}"
        )
    for name in cell.unseen_datasets:
        if DATASETS[name].num_classes < cell.num_classes:
            raise ConfigError(f"unseen_datasets: {name} has fewer than {cell.num_classes} classes")


def check_size(cell: Cell) -> None:
    """Refuses what no device can hold, before anything is made or estimated of it."""
    family = TASK_FAMILIES[cell.task_family]
    if not family.loaded:
        return
    inner = max(cell.model_size, cell.mlp_units, cell.num_heads * cell.key_size)
    weights = cell.num_layers * cell.model_size * inner
    inputs = cell.input_size ** (2 if family.projects else 1)
    kept = cell.batch_size * max(cell.num_tokens * cell.num_layers * inner, inputs)
    for what, count in (("weights", weights), ("numbers kept of a step", kept)):
        if count > MAX_NUMBERS:
            raise ConfigError(
                f"model_size: {cell.model_size}, num_layers: {cell.num_layers}, batch_size: "
                f"{cell.batch_size}, image_size: {cell.image_size} together are {count:.0e} "
                f"{what}; allowed: {MAX_NUMBERS:.0e}"
            )
