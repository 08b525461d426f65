"""What is found out of fast paths is kept by what it hangs on, and survives processes that die."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from metaphase.core import caches, fast_paths
from metaphase.core.cell import ConfigError
from metaphase.sweeps.execution import gpus, proving, surroundings
from tests.conftest import small_cell

CELLS = [small_cell(model_size=size, seed=seed) for size in (4, 8) for seed in (0, 1)]
OF = {"gpu": "H100, sm_90", "driver": "13000", "torch": "2.14", "triton": "3.8", "metaphase": "a"}
MLP = fast_paths.named(fast_paths.MLP, "bf16", D=4, M=16)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(caches, "folders", lambda: iter([tmp_path]))


def proof(name, why="", **numbers):
    of_numbers = dict.fromkeys(("error", "bound", "fast", "plain"), math.nan) | numbers
    return {"name": name, "why": why, **of_numbers}


def answers(*told):
    """A runner of tasks that tells these, one after the other, and the tasks that it got."""
    tasks, left = [], list(told)

    def run(task):
        tasks.append(task)
        return left.pop(0)

    return run, tasks


def found(*proofs, poisoned=False, error=""):
    return {"proofs": list(proofs), "poisoned": poisoned, "error": error}


def test_it_is_found_out_once_for_a_kind_of_gpu_and_shapes():
    run, tasks = answers(*[found(proof(MLP), proof(fast_paths.CAPTURE, "it broke"))] * 9)
    first = proving.find_out(CELLS, OF, "data", run)
    assert first.verdicts == {MLP: "", fast_paths.CAPTURE: "it broke"}
    assert [cell.model_size for cell in tasks[0].cells] == [4, 8]  # one of each shape
    again = proving.find_out(CELLS[1:], OF, "data", run)
    assert again.kept
    assert again.verdicts == first.verdicts
    assert len(tasks) == 1
    for name in OF:  # another driver, say
        proving.find_out(CELLS, OF | {name: "another"}, "data", run)
    proving.find_out(CELLS[:1], OF, "data", run)
    proving.find_out(CELLS, OF, "data", run, fresh=True)
    assert len(tasks) == 1 + len(OF) + 2


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"proofs": [{"name": 1}]}', '{"proofs": 3}'])
def test_a_damaged_cache_is_none(content, tmp_path):
    run, tasks = answers(found(proof(MLP)), found(proof(MLP)))
    proving.find_out(CELLS, OF, "data", run)
    [kept] = tmp_path.iterdir()
    kept.write_text(content)
    assert proving.find_out(CELLS, OF, "data", run).verdicts == {MLP: ""}
    assert len(tasks) == 2


def test_where_nothing_can_be_kept_it_is_found_out_each_time(monkeypatch):
    monkeypatch.setattr(caches, "folders", lambda: iter([]))
    run, tasks = answers(found(proof(MLP)), found(proof(MLP)))
    for _ in range(2):
        assert proving.find_out(CELLS, OF, "data", run).verdicts == {MLP: ""}
    assert len(tasks) == 2


def test_after_a_poisoned_process_another_one_finds_out_the_rest():
    run, tasks = answers(
        found(proof(MLP), proof(fast_paths.CAPTURE, "it broke"), poisoned=True), found(proof(MLP))
    )
    told = proving.find_out(CELLS, OF, "data", run)
    assert told.verdicts == {MLP: "", fast_paths.CAPTURE: "it broke"}
    assert [dict(task.verdicts) for task in tasks] == [{}, {fast_paths.CAPTURE: "it broke"}]


@pytest.mark.parametrize("first", ["it died (-11)", found(poisoned=True, error="it died (-11)")])
def test_a_process_that_dies_leaves_plain_pytorch(first):
    run, tasks = answers(first, found())
    told = proving.find_out(CELLS, OF, "data", run)
    assert told.verdicts == dict.fromkeys(proving.ALL, "it died (-11)")
    assert tasks[1].verdicts == told.verdicts


def test_a_gpu_that_plain_pytorch_cant_use_either_ends_it():
    run, _ = answers("it died (-11)", "it died (-11)")
    with pytest.raises(ConfigError, match="it died"):
        proving.find_out(CELLS, OF, "data", run)
    run, _ = answers(found(error="dataset: MNIST isn't in data root 'data'"))
    with pytest.raises(ConfigError, match="dataset: MNIST"):
        proving.find_out(CELLS, OF, "data", run)


def test_what_failed_while_it_was_used_is_off_in_the_next_process():
    """For cells of these shapes alone, and until it is tried again."""
    run, tasks = answers(*[found(proof(MLP), proof(fast_paths.CAPTURE))] * 3)
    works = {MLP: "", fast_paths.CAPTURE: ""}
    assert proving.find_out(CELLS, OF, "data", run).verdicts == works
    proving.remember(CELLS, OF, fast_paths.CAPTURE, "it broke")
    told = proving.find_out(CELLS, OF, "data", run)
    assert told.kept
    assert told.verdicts == {MLP: "", fast_paths.CAPTURE: "it broke"}
    assert proving.find_out(CELLS[:1], OF, "data", run).verdicts == works
    assert proving.find_out(CELLS, OF, "data", run, fresh=True).verdicts == works
    assert proving.find_out(CELLS, OF, "data", run).verdicts == works
    assert len(tasks) == 3
    proving.remember(CELLS[2:], OF, fast_paths.CAPTURE, "it broke")  # of which nothing was known
    told = proving.find_out(CELLS[2:], OF, "data", run)
    assert told.verdicts == {fast_paths.CAPTURE: "it broke"}


@pytest.mark.parametrize("where", ["a kernel", "plain PyTorch"])
def test_memory_that_others_fill_is_not_held_against_a_path_for_ever(where):
    full = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    first = found(proof(MLP, full)) if where == "a kernel" else found(poisoned=True, error=full)
    run, _ = answers(first, *[found(proof(MLP))] * (1 + (where != "a kernel")))
    assert proving.find_out(CELLS, OF, "data", run).verdicts[MLP if where == "a kernel" else
        fast_paths.CAPTURE] == full  # fmt: skip
    assert proving.find_out(CELLS, OF, "data", run).verdicts == {MLP: ""}


@pytest.mark.parametrize(
    "why",
    [
        "OutOfResources: out of resource: shared memory, Required: 180224, Hardware limit: 101376.",
        "OutOfResources: out of resource: tensor memory, Required: 1024, Hardware limit: 512.",
        "AcceleratorError: CUDA error: an illegal memory access was encountered",
    ],
)
def test_what_is_wrong_with_a_kernel_is_found_out_once_though_it_names_memory(why):
    run, tasks = answers(found(proof(MLP, why)))
    for _ in range(2):
        assert proving.find_out(CELLS, OF, "data", run).verdicts == {MLP: why}
    assert len(tasks) == 1


def test_cells_that_take_other_paths_are_tried_though_their_shapes_are_known():
    """Projections in a table, and steps that decay weights."""
    drawn = [replace(cell, num_tasks=2**30) for cell in CELLS]
    run, tasks = answers(*[found(proof(MLP))] * 3)
    proving.find_out(drawn, OF, "data", run)
    proving.find_out([*drawn, *CELLS], OF, "data", run)
    assert [cell.num_tasks for cell in tasks[1].cells] == [CELLS[0].num_tasks] * 2
    proving.find_out([*drawn, replace(drawn[0], weight_decay=0.1)], OF, "data", run)
    assert [cell.weight_decay for cell in tasks[2].cells] == [0.0, 0.0, 0.1]
    assert proving.find_out(drawn[::-1], OF, "data", run).kept


@pytest.mark.slow
def test_a_process_of_its_own_carries_it_out():
    """On the CPU, where there is nothing to find out."""
    assert proving.environment("cpu")["gpu"] == "cpu"
    told = proving.in_a_process(proving.Task(CELLS[:1], (), "data", "cpu"))
    assert told["error"] == ""
    assert [p["name"] for p in told["proofs"]] == [fast_paths.CAPTURE]  # which is no other here


def test_a_process_that_cant_be_is_an_answer_too(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "died (1)" in proving.in_a_process(proving.Task(CELLS[:1], (), "data", "cpu"))

    def slow(*arguments, **options):
        raise subprocess.TimeoutExpired("python", 900)

    monkeypatch.setattr(subprocess, "run", slow)
    assert "takes longer" in proving.in_a_process(proving.Task(CELLS[:1], (), "data", "cpu"))


def test_what_fails_on_one_kind_of_gpu_is_off_on_all(monkeypatch, capsys):
    told = {"a": found(proof(MLP), proof("x")), "b": found(proof(MLP, "OutOfResources: shared"))}
    monkeypatch.setattr(gpus, "_carry_out_there", lambda node, gpu, task: told[node])
    kinds = [("a", OF), ("b", OF | {"gpu": "L4, sm_89"})]
    verdicts = gpus.prove(gpus.Gpus(1e9, kinds), CELLS, "data")
    assert verdicts == {MLP: "OutOfResources: shared", "x": ""}
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"L4, sm_89: no {MLP}, plain PyTorch instead: OutOfResources: shared"


def test_the_table_says_what_is_used_and_why_not():
    slower = f"{fast_paths.SLOWER}: 2 ms against 1"
    lines = list(
        surroundings.fast_path_lines(
            [
                proof(MLP, error=1e-3, bound=1e-2, fast=0.8, plain=1.21),
                proof("a", slower, fast=2.0, plain=1.0),
                proof("b", "PTXASError: it died"),
            ]
        )
    )
    assert [line.state for line in lines] == ["ok", "ok", "note"]
    assert lines[0].details == "used; off by 1.0e-03 (allowed 1.0e-02); 0.8 ms, twin 1.21"
    assert lines[1].details == f"{slower}; 2 ms, twin 1"
    assert lines[2].details == "PTXASError: it died"
    assert json.dumps(lines)
