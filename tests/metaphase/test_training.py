"""Sweeps described in Python, and what `metaphase.run` leaves as it finds it."""

import asyncio
import gc
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import metaphase as mp
from metaphase import ray_process
from metaphase.core.cell import ConfigError
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.preset import load_preset
from metaphase.sweeps.store.results import Results
from tests.docs import write_plug_ins
from tests.sweeps.execution.test_worker import assert_same

CELL = {
    "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 8, "steps": 10,
    "eval_every": 5, "eval_sequences": 16, "warmup_steps": 5,
}  # fmt: skip
SWEEP = mp.Sweep("sweep", {**CELL, "model_size": 8}, {"num_tasks": [1, 8]})


def test_importing_is_instant_and_brings_nothing_along():
    code = (
        "import sys, metaphase as mp\n"
        "heavy = {'torch', 'ray', 'pandas', 'numpy', 'yaml', 'pyarrow'} & set(sys.modules)\n"
        "print(sorted(heavy), set(mp.__all__) <= set(dir(mp)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
    for name in mp.__all__:
        assert getattr(mp, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'Sweeps'"):
        mp.Sweeps  # noqa: B018


def test_a_sweep_says_what_its_preset_says(tmp_path):
    sweep = mp.Sweep(
        name="mine",
        description="a line",
        cell={"dataset": "digits", "learning_rate": np.float32(0.5), "steps": np.int64(10)},
        grid={
            "model_size": np.array([8, 16]), "num_tasks": (1, 2),
            "seed": range(2), "unseen_datasets": [[], ("glyphs",)],
        },
    )  # fmt: skip
    path = tmp_path / "anything.yaml"
    path.write_text(sweep.to_yaml())
    loaded = load_preset(str(path))
    assert (loaded.name, loaded.description, loaded.cells) == ("mine", "a line", sweep.cells)
    assert len(sweep.cells) == 16
    assert sweep.axes == ("model_size", "num_tasks", "seed", "unseen_datasets")
    assert repr(sweep).startswith("<Sweep mine: 16 cells over model_size x num_tasks x seed")
    several = mp.Sweep("two", {"steps": 10}, [{"seed": pd.Series([0, 1])}, {"num_tasks": [2]}])
    assert len(several.cells) == 3


def test_settings_without_effect_are_warned_of():
    idle = {"architecture": "lstm", "num_heads": 4}
    for make in (lambda: mp.Sweep("s", idle), lambda: mp.Sweep.preset("regression-tiny", **idle)):
        with pytest.warns(
            UserWarning, match="^num_heads: 4 has no effect: lstm doesn't use it$"
        ) as w:
            make()
        assert {warning.filename for warning in w} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mp.Sweep("s", {"num_heads": 4}, {"architecture": ["lstm", "transformer"]})


def test_a_preset_takes_settings_as_the_command_does():
    sweep = mp.Sweep.preset(
        "quickstart", num_tasks=[1, 64], learning_rate=1e-5, seed=0, name="a-b",
        unseen_datasets=["glyphs"], model_size=range(8, 33, 8),
    )  # fmt: skip
    texts = ["num_tasks=[1,64]", "learning_rate=0.00001", "seed=0", "name=a-b"]
    texts += ["unseen_datasets=[glyphs]", "model_size=[8,16,24,32]"]
    assert sweep.cells == load_preset("quickstart", texts).cells
    assert sweep.name == "a-b"
    assert mp.Sweep.preset("quickstart").cells == load_preset("quickstart").cells


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: mp.Sweep("s", {"model_sice": 8}), "cell: 'model_sice': unknown key.*model_size"),
        (lambda: mp.Sweep("s", {"steps": 0}), "steps: 0.*1"),
        (lambda: mp.Sweep("s", {"architecture": "./no.py:F"}), "Sweep: architecture: can't read"),
        (lambda: mp.Sweep("s", {"model_size": "8"}), "model_size"),
        (lambda: mp.Sweep("s", {"model_size": object()}), "model_size: <object.*not a plain"),
        (lambda: mp.Sweep("s", {}, {"seed": 3}), "seed: 3 is not a list"),
        (lambda: mp.Sweep("s", {}, {"seed": [1, 1]}), "seed: 1 is given twice"),
        (lambda: mp.Sweep("s", {}, {"seed": []}), "seed: the list is empty"),
        (lambda: mp.Sweep("s", {"seed": 1}, {"seed": [1]}), "seed: both in cell and in grid"),
        (lambda: mp.Sweep("../s"), "name: '../s' can't name a sweep"),
        (lambda: mp.Sweep(""), "name: '' can't name a sweep"),
        (lambda: mp.Sweep(3), "name: 3 can't name a sweep"),
        (lambda: mp.Sweep("s", [1]), r"cell: \[1\] is not a mapping"),
        (lambda: mp.Sweep("s", {"learning_rate": float("nan")}), "learning_rate: nan"),
        (lambda: mp.Sweep.preset("quickstrt"), "did you mean quickstart"),
        (lambda: mp.Sweep.preset("quickstart", sede=1), "^'sede': unknown key.*mean seed"),
        (lambda: mp.Sweep.preset("quickstart", seed="x: y"), "seed"),
        (lambda: mp.Sweep.preset("./no/such.yaml"), "can't read ./no/such.yaml"),
        (lambda: mp.run("quickstart"), "sweep: 'quickstart' is not a Sweep"),
        (lambda: mp.run(SWEEP, keep_models="all"), "keep_models: 'all'.*False, True, evaluations"),
        (lambda: mp.run(SWEEP, executor="dask"), "executor: 'dask'.*allowed: local, ray"),
        (lambda: mp.run(SWEEP, other_numerics="x"), "other_numerics: 'x'.*refuse, keep, renew"),
        (lambda: mp.run(SWEEP, executor="ray", device="cpu"), "device: 'cpu' is for the local"),
        (lambda: mp.run(SWEEP, "s3://k:secret@bucket/x"), "credentials"),
        (lambda: mp.run(SWEEP, "/proc/nowhere"), "root: can't write to /proc/nowhere/sweep"),
        (lambda: mp.run(SWEEP, data_root="s3://bucket/data"), "is a URI; allowed: a folder"),
        (lambda: mp.run(SWEEP, time_limit=-1), "time_limit: -1"),
        (lambda: mp.run(SWEEP, time_limit="1h"), "time_limit: '1h' is no number of seconds"),
        (lambda: mp.run(SWEEP, pack_size=0), "pack_size: 0 is no number of cells"),
        (lambda: mp.run(SWEEP, pack_size="4"), "pack_size: '4' is no number of cells"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(make, why, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why) as refused:
        make()
    assert "\n" not in str(refused.value)
    assert type(refused.value).__name__ == "ConfigError"  # as tracebacks show it
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("device", ["", "CPU", 5])
def test_a_device_that_is_none_is_refused_before_anything_is_begun(device, tmp_path):
    with pytest.raises(ConfigError, match=r"device: .* is no device; allowed"):
        mp.run(SWEEP, tmp_path, device=device, progress=False)
    assert not any(tmp_path.iterdir())
    results = Results(str(tmp_path), SWEEP.name)
    for cell in SWEEP.cells:
        results.write_failure(cell, "no")
    with pytest.raises(ConfigError, match=r"device: .* is no device; allowed"):
        mp.run(SWEEP, tmp_path, device=device, progress=False)


def state_of_the_process():
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    kept = {
        "logging": {
            log.name: (log.level, list(log.handlers), log.propagate, list(log.filters))
            for log in loggers
            if log.handlers or log.level or log.filters or log.disabled
        },
        "warnings": list(warnings.filters),
        "show warnings": warnings.showwarning,
        "signals": [signal.getsignal(number) for number in numbers],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "rcParams": dict(mpl.rcParams),
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": os.umask(0o022),
        "threads of torch": torch.get_num_threads(),
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "torch's": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "streams": (sys.stdout, sys.stderr, sys.stdin, sys.excepthook, threading.excepthook),
        "path": (list(sys.path), list(sys.argv), list(sys.meta_path)),
        "pandas": pd.get_option("display.max_rows"),
        "numpy": np.geterr(),
        "locale": locale.setlocale(locale.LC_ALL),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "switching": sys.getswitchinterval(),
        "threads": {t.name for t in threading.enumerate()},
    }
    os.umask(kept["umask"])
    return kept


def test_the_callers_process_stays_as_it_is(tmp_path):
    """In a process of its own kind: with settings that differ from all defaults."""
    mp.run(SWEEP, tmp_path / "first", progress=False)  # imports are over
    handler = logging.NullHandler()
    logging.getLogger("metaphase").addHandler(handler)
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(2)
    before_signal = signal.signal(signal.SIGTERM, lambda *arguments: None)
    try:
        with warnings.catch_warnings(), mpl.rc_context({"font.size": 17}), torch.no_grad():
            warnings.simplefilter("error")
            before = state_of_the_process()
            with pytest.raises(ConfigError):
                mp.run(SWEEP, tmp_path, device="nonsense", progress=False)
            mp.run(SWEEP, tmp_path, keep_models="evaluations", progress=False)
            results = mp.load(tmp_path / "sweep")
            results.phase_map()
            assert results.model(num_tasks=8).step == 10
            assert results.model(num_tasks=8, step=5).step == 5
            after = state_of_the_process()
    finally:
        torch.set_num_threads(1)
        signal.signal(signal.SIGTERM, before_signal)
        logging.getLogger("metaphase").removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
    for name, value in before.items():
        assert after[name] == value, name
    assert_same(Results(str(tmp_path), "sweep"), Results(str(tmp_path / "first"), "sweep"))


def test_the_device_on_which_the_caller_makes_tensors_shows_nowhere(tmp_path):
    for name in ("plain", "meta"):
        with torch.device("meta" if name == "meta" else "cpu"):
            mp.run(SWEEP, tmp_path / name, keep_models=True, progress=False)
            longer = mp.Sweep(
                "sweep", {**CELL, "model_size": 8, "steps": 20}, {"num_tasks": [1, 8]}
            )
            results = mp.run(longer, tmp_path / name, keep_models=True, progress=False)
            model = results.model(num_tasks=8, steps=20)
            x, y = model.sequences("seen", range(3))
            shown = model.predict(x, y), model.activations(x, y)["logits"]
        assert all(t.is_cpu and torch.equal(t, shown[0]) for t in shown)
    assert_same(*(Results(str(tmp_path / name), "sweep") for name in ("plain", "meta")))


def test_what_becomes_of_a_pack_is_a_line_and_no_traceback(tmp_path):
    """In a process of its own, whose logs nobody has asked for."""
    code = """
import sys
import metaphase as mp
from metaphase.core.training.trainer import PackTrainer

def fails(*arguments):
    raise IndexError("of somebody's code")

PackTrainer.advance = fails
cell = {cell}
try:
    mp.run(mp.Sweep("sweep", cell, {{"num_tasks": [1, 8]}}), sys.argv[1], progress=False)
except mp.ConfigError as error:
    print(error)
"""
    made = code.format(cell={**CELL, "model_size": 8})
    run = subprocess.run([sys.executable, "-c", made, tmp_path], capture_output=True, text=True)
    assert "all failed alike" in run.stdout
    assert "pack 0 failed: IndexError: of somebody's code" in run.stderr
    assert "Traceback" not in run.stderr


def test_in_a_thread_in_an_event_loop_and_with_inference_mode(tmp_path):
    raised = []

    def call():
        try:
            mp.run(SWEEP, tmp_path / "thread", progress=False)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()

    async def cell():  # as a notebook's are run
        with torch.inference_mode():
            return mp.run(SWEEP, tmp_path / "loop", progress=False)

    results = asyncio.run(cell())
    thread.join()
    assert not raised
    assert len(results.cells) == 2
    assert_same(*(Results(str(tmp_path / name), "sweep") for name in ("thread", "loop")))


def test_what_it_prints(tmp_path, capsys):
    mp.run(SWEEP, tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")
    mp.run(SWEEP, tmp_path)
    assert capsys.readouterr().out == "Nothing to do: all 2 cells of sweep are finished.\n"
    wider = mp.Sweep("sweep", {**CELL, "model_size": 8}, {"num_tasks": [1, 8, 64]})
    mp.run(wider, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "  + grid: num_tasks: [1, 8, 64]" in lines
    assert "sweep: 1 of 3 cells to train" in lines
    assert lines[-1].startswith("3 of 3 cells are finished: ")
    assert mp.load(tmp_path / "sweep").sweep.cells == wider.cells


def test_a_search_trains_what_tells_and_the_grid_later(tmp_path, capsys):
    grid = {"num_tasks": [1, 2, 4, 8, 16, 32]}
    plain = mp.Sweep("sweep", {**CELL, "model_size": 8}, grid)
    searched = mp.Sweep("sweep", {**CELL, "model_size": 8}, grid, search={"budget": 0.5})
    assert searched.cells == plain.cells
    assert searched.settings["search"] == {"budget": 0.5}
    assert len(mp.run(searched, tmp_path / "a").cells) == 3
    out = capsys.readouterr().out
    assert "sweep: a search among 6 cells\n" in out
    assert "the budget is spent; generalizing begins at 2^: model_size 8" in out
    mp.run(searched, tmp_path / "a")
    assert capsys.readouterr().out == "Nothing to do: the budget is spent.\n"
    assert len(mp.run(plain, tmp_path / "b", boundary=True, progress=False).cells) == 1  # a fifth
    for name, sweep, all_of_them in (("a", searched, False), ("b", plain, None)):
        assert len(mp.run(sweep, tmp_path / name, boundary=all_of_them, progress=False).cells) == 6
    assert_same(*(Results(str(tmp_path / name), "sweep") for name in ("a", "b")))
    with pytest.raises(ConfigError, match="boundary: 3 is not allowed; allowed: None, True, False"):
        mp.run(plain, tmp_path, boundary=3)
    with pytest.raises(ConfigError, match="boundary: 1 is not allowed"):  # equal to True
        mp.run(plain, tmp_path, boundary=1)
    with pytest.raises(ConfigError, match=r"num_tasks: .* along which a boundary is sought"):
        mp.run(SWEEP, tmp_path / "c", boundary=True)
    with pytest.raises(ConfigError, match="search: 'phase' is not one of boundary"):
        mp.Sweep("s", search="phase")


FAKE = """
import signal, sys, time
print("note: steps: 3 has no effect: told already", file=sys.stderr, flush=True)
print("tiny: 2 of 2 cells to train", *sys.argv[1:], flush=True)
{}
"""


@pytest.mark.parametrize(
    ("code", "raises"),
    [
        ("sys.exit(0)", None),
        ("sys.exit(1)", None),  # cells failed
        ("print('error: no network', file=sys.stderr); sys.exit(1)", (ConfigError, "^no network$")),
        ("import os; os.kill(os.getpid(), 9)", (RuntimeError, "status -9: tiny")),
    ],
)
def test_what_rays_process_comes_to(tmp_path, monkeypatch, capsys, code, raises):
    monkeypatch.setattr(ray_process, "_CHILD", FAKE.format(code))
    if raises:
        with pytest.raises(raises[0], match=raises[1]):
            mp.run(SWEEP, tmp_path, executor="ray", pack_size=3, keep_models=True)
        return
    options = {"pack_size": 3, "keep_models": True, "boundary": False}
    assert mp.run(SWEEP, tmp_path, executor="ray", **options).path
    out = capsys.readouterr().out
    assert out.startswith("tiny: 2 of 2 cells to train")
    assert f"--root={tmp_path} --data-root=" in out
    assert "--pack-size=3 --no-boundary --keep-models" in out


@pytest.mark.usefixtures("interruptible")
def test_rays_process_is_told_of_interrupts_and_time_limits(tmp_path, monkeypatch):
    code = """
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("Stopped. This continues: python -m metaphase.sweeps.run /tmp/gone.yaml", flush=True)
    sys.exit(130)
"""
    monkeypatch.setattr(ray_process, "_CHILD", FAKE.format(code))
    assert mp.run(SWEEP, tmp_path, executor="ray", time_limit=0.3).path
    timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mp.run(SWEEP, tmp_path, executor="ray", progress=False)


def test_plug_ins_are_sweeps_like_others(tmp_path, monkeypatch, capsys):
    write_plug_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = {"task_family": "./regression.py:LinearRegression", "dimension": 2}
    shape = {"sequence_length": 8, "batch_size": 8, "steps": 4, "eval_sequences": 16}
    sweep = mp.Sweep("noisy", {**own, **shape}, {"num_tasks": [1, 8]})
    trainer = PackTrainer(sweep.cells)
    trainer.train(2)
    for cell, state in zip(trainer.cells, trainer.states(), strict=True):
        check_state(cell, state)  # a checkpoint is one
        assert replace(replace(cell, steps=9), steps=4) == cell
    results = mp.run(sweep, keep_models=True, progress=False)
    assert results.cells.dimension.tolist() == [2, 2]
    model = results.model(num_tasks=8)
    x, y = model.sequences("seen", range(3))
    assert (x.shape, y.shape) == ((3, 8, 2), (3, 8, 1))
    assert torch.equal(model.activations(x, y)["logits"], model.predict(x, y))
    assert results.sweep.cells == sweep.cells
    code = "from pathlib import Path; print(*Path(sys.argv[1]).parent.rglob('*.py'))"
    monkeypatch.setattr(ray_process, "_CHILD", FAKE.format(code))
    mp.run(sweep, executor="ray")
    assert capsys.readouterr().out.strip().endswith("regression.py")  # workers get it from there


@pytest.mark.slow
def test_both_executors_write_the_same_numbers(short_folder):
    before = state_of_the_process()
    mp.run(SWEEP, short_folder / "ray", executor="ray", progress=False)
    assert state_of_the_process() == before
    mp.run(SWEEP, short_folder / "local", progress=False)
    assert_same(*(Results(str(short_folder / name), "sweep") for name in ("ray", "local")))
    assert yaml.safe_load((short_folder / "ray/sweep/sweep.yaml").read_text())["name"] == "sweep"
