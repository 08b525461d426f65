"""Asks the machines of the connected cluster, each by a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def ask(
    function: Callable[[], Any], wanted: Callable[[dict[str, float]], bool], **options: Any
) -> dict[ray.ObjectRef, str]:
    """Starts a task on every machine that is there.

    Args:
        function: what a task runs.
        wanted: whether a machine with these resources is asked.
        options: of the tasks, beside num_cpus=0.

    Returns:
        {task: the machine's address}.
    """
    task = ray.remote(num_cpus=0, max_retries=1, **options)(function)
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and wanted(node["Resources"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = task.options(scheduling_strategy=there).remote()
            asked[remote] = node["NodeManagerAddress"]
    return asked


def answers(
    asked: dict[ray.ObjectRef, str], seconds: float, failed: str
) -> tuple[list[tuple[str, Any]], list[ray.ObjectRef]]:
    """([(a machine's address, what its task returned)], the tasks that haven't ended in so many
    seconds). Of a task that failed the answer is why, in one line that begins with `failed`."""
    ended, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    told: list[tuple[str, Any]] = []
    for task in ended:
        try:
            told.append((asked[task], ray.get(task)))
        except ray.exceptions.RayError as error:
            told.append((asked[task], f"{failed}: {' '.join(str(error).split())[:200]}"))
    return told, waiting
