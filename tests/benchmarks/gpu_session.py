"""What has to be shown on a GPU, in parts of at most ten minutes, those that say most first.

    python -m tests.benchmarks.gpu_session                      # all parts, some 40 minutes
    python -m tests.benchmarks.gpu_session checks throughput    # these
    python -m tests.benchmarks.gpu_session --toy                # on the CPU: does the script work?

Each part is a process that is killed at the end of its time; what it has found until then stands
on the terminal and in $OUT (default: gpu-session). Kernels that run on proof are measured where
`checks` has run before, with the same $OUT, and each part says which. The exit status is 1 where
there is no GPU, or a part failed. `figure2` needs data/MNIST, and `tests` pytest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch

from metaphase.core import fast_paths
from metaphase.core.cell import Cell
from metaphase.core.training import cost, proofs
from metaphase.core.training.trainer import PackTrainer, device_name
from metaphase.sweeps.execution import proving
from tests.benchmarks import precision as precisions
from tests.benchmarks import throughput
from tests.benchmarks.throughput import (
    FIGURE2_STEPS,
    FIGURE2_TASK_COUNTS,
    PAPER,
    QUICKSTART,
    Timer,
    ceilings,
    ours,
    planned_replicas,
    replicas_of,
)

VERDICTS = "verdicts.json"  # in $OUT
TOY_SHAPE = {"image_size": 4, "sequence_length": 8, "num_layers": 1, "num_heads": 2, "key_size": 4}


class Size:
    """The paper's shapes on a GPU, or toys on the CPU."""

    def __init__(self, toy: bool) -> None:
        self.toy = toy
        self.device = torch.device("cpu" if toy else "cuda")
        self.widths = [4, 8] if toy else [2, 16, 64, 256, 512]
        self.lstm_widths = [4, 8] if toy else [32, 512]
        self.seconds = 0.01 if toy else 0.7  # that a measurement takes
        self.timer = Timer(self.device, self.seconds)
        self.replicas = 2 if toy else 8
        self.out = Path(os.environ.get("OUT", "gpu-session"))

    def cell(self, width: int, precision: str = "bf16", **settings: object) -> Cell:
        shape = PAPER | {"batch_size": 512, "eval_sequences": 1024}
        if self.toy:
            shape |= TOY_SHAPE | {"batch_size": 4, "eval_sequences": 4}
        return Cell(**shape | {"model_size": width, "precision": precision} | settings)


def checks(size: Size) -> None:
    """Kernels against their twins, captured steps against others, one evaluation: every path. What
    is found right and faster is what the other parts measure."""
    verdicts: dict[str, str] = {}
    wrong = []
    for what, cells in proven_cells(size).items():
        found = proofs.prove(cells, size.device, "data", say=lambda line: print(line, flush=True))
        verdicts |= found.verdicts
        keep_verdicts(size, verdicts)
        for proof in found.proofs:
            print(
                f"{proof.name:<60} {proof.why or 'right and faster'}; off by {proof.error:.1e}, "
                f"allowed {proof.bound:.1e}; {proof.fast:.3f} ms, twin {proof.plain:.3f}",
                flush=True,
            )
            if proof.why and not proof.why.startswith(fast_paths.SLOWER):
                wrong.append(proof.name)
        if found.error or not found.proofs:
            raise SystemExit(f"wrong: {what}: {found.error or 'nothing was tried'}")
        if found.poisoned:
            break
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


def proven_cells(size: Size) -> dict[str, list[Cell]]:
    """The shapes that the parts measure, those that say most first, with tasks whose projections
    are in a table, and drawn."""
    scans = [size.cell(width, architecture="lstm") for width in size.lstm_widths]
    return {
        "bf16": [size.cell(width, num_tasks=n) for width in size.widths for n in (64, 2**25)],
        "LSTM": scans,
        "tf32": [size.cell(width, "tf32") for width in size.widths],
    }


def keep_verdicts(size: Size, verdicts: dict[str, str]) -> None:
    """Writes down which paths are right and faster here, for the parts to come."""
    told = {"environment": proving.environment(size.device.type), "verdicts": verdicts}
    size.out.mkdir(parents=True, exist_ok=True)
    (size.out / VERDICTS).write_text(json.dumps(told, indent=1))


def adopt_verdicts(size: Size) -> str:
    """Takes over what `checks` has found here; says in a line what is measured by that."""
    try:
        told = json.loads((size.out / VERDICTS).read_text())
    except (OSError, ValueError):
        told = {}
    if told.get("environment") != proving.environment(size.device.type):
        return "plain PyTorch is measured: `checks` hasn't run here"
    verdicts = told["verdicts"]
    fast_paths.adopt(verdicts)
    used = [name for name, why in verdicts.items() if not why]
    return (
        f"measured with the {len(used)} of {len(verdicts)} fast paths that `checks` has found "
        f"right and faster, else plain PyTorch: {', '.join(used) or 'none'}"
    )


def limits(size: Size) -> None:
    """The two ceilings: products and copies."""
    for precision in ("fp32",) if size.toy else ("bf16", "tf32", "fp32"):
        rate, copy = ceilings(size.device, precision, size.timer)
        print(f"{precision}: {rate / 1e12:.2f} TFLOP/s, copy {copy / 1e12:.3f} TB/s", flush=True)


def steps(size: Size, precision: str = "bf16") -> None:
    """Our steps a second, packs of 8 and as planned, and what Figure 2 takes by them."""
    hours = 0.0
    for width in size.widths:
        cell, rates = size.cell(width, precision), []
        planned = size.replicas if size.toy else planned_replicas(cell, size.device)
        for replicas in sorted({size.replicas, planned}):
            step, drawing = ours(replicas_of(cell, replicas), size.device, size.timer)
            rates.append(replicas / step)
            moved = cost.bytes_per_step(cell, kernels=False) * replicas / step
            done = cost.flops_per_step(cell) * replicas / step
            print(
                f"width {width:>4} {precision} R {replicas:>3}: {1e3 * step / replicas:9.3f} ms a "
                f"step and replica, drawing {drawing / step:4.0%}, {done / 1e12:7.2f} TFLOP/s, "
                f"{moved / 1e12:6.3f} TB/s by plain PyTorch's bytes",
                flush=True,
            )
        column = FIGURE2_TASK_COUNTS * FIGURE2_STEPS / max(rates) / 3600
        # Of nine widths these are five; those between are taken to cost as the next one.
        share = 1 if size.toy else {2: 1, 16: 3, 64: 2, 256: 2, 512: 1}[width]
        hours += share * column
        print(
            f"  its column of Figure 2: {column:.2f} hours; at most so far {hours:.2f}", flush=True
        )


def profile(size: Size) -> None:
    """The operations of one step, the dearest first."""
    cuda = size.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] * cuda
    for width in size.widths[:: 2 if len(size.widths) > 2 else 1]:
        trainer = PackTrainer(replicas_of(size.cell(width), size.replicas), device=size.device)
        trainer._repeated_step._captures = False
        trainer.train(2)
        with torch.profiler.profile(activities=activities) as found:
            trainer.train(1)
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        print(f"width {width}, R {size.replicas}")
        print(found.key_averages().table(sort_by=order, row_limit=14), flush=True)


def fused(size: Size) -> None:
    """The kernels that run on proof, on and off: of whole blocks up to width 64, of all layers
    beyond."""
    for width in size.widths:
        for asked in ("0", "1"):
            with mock.patch.dict(os.environ, METAPHASE_FUSED=asked):
                step, _ = ours(
                    replicas_of(size.cell(width), size.replicas), size.device, size.timer
                )
            what = "fused" if asked == "1" else "plain"
            print(f"width {width:>4} {what}: {1e3 * step / size.replicas:9.3f} ms", flush=True)
    print(f"off: {fast_paths.said() or 'nothing'}")


def memory(size: Size) -> None:
    """Peak memory of a pack that trains and evaluates, against what it is planned by."""
    for precision in ("bf16", "tf32"):
        for width in size.widths:
            cells = replicas_of(size.cell(width, precision), size.replicas)
            peak = math.nan
            throughput.free(size.device)
            if size.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            trainer = PackTrainer(cells, device=size.device)
            trainer.train(2)
            trainer._evaluate()
            if size.device.type == "cuda":
                peak = torch.cuda.max_memory_reserved() / 1e9
            planned = cost.pack_bytes(cells, size.device.type) / 1e9
            print(
                f"width {width:>4} {precision}: {peak:8.2f} GB reserved, {planned:8.2f} planned, "
                f"{peak / planned:.2f}",
                flush=True,
            )
            del trainer


def baselines(size: Size, precision: str = "bf16") -> None:
    """Compiled vmap beside ours, drawing left out of both as well."""
    widths = size.widths if size.toy else [16, 512]
    for width in widths:
        cell = size.cell(width, precision)
        pack = throughput.VmapPack(cell, size.replicas, "data", size.device)
        theirs = size.timer(pack.step)
        x, y = pack.tasks.batch()
        with mock.patch.object(pack.tasks, "batch", return_value=(x, y)):
            theirs_alone = size.timer(pack.step)
        del pack, x, y
        step, drawing = ours(replicas_of(cell, size.replicas), size.device, size.timer)
        print(
            f"width {width:>4} {precision} R {size.replicas}: compiled vmap {1e3 * theirs:9.3f} "
            f"ms, ours {1e3 * step:9.3f}, {theirs / step:5.2f} times; without drawing "
            f"{1e3 * theirs_alone:9.3f}, {1e3 * (step - drawing):9.3f}, "
            f"{theirs_alone / (step - drawing):5.2f} times",
            flush=True,
        )
        torch._dynamo.reset()


def tf32(size: Size) -> None:
    """As `throughput` and `vmap`, in tf32."""
    steps(size, "tf32")
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # of the baseline's products
    baselines(size, "tf32")


def phases(size: Size) -> None:
    """Whether bf16 moves phases against fp32."""
    with ExitStack() as stack:
        if size.toy:
            few = [Cell(**QUICKSTART, model_size=4, seed=s, steps=2, warmup_steps=1, eval_every=2,
                        eval_sequences=8) for s in (0, 1)]  # fmt: skip
            stack.enter_context(mock.patch.object(precisions, "quickstart", return_value=few))
        precisions.main(["--precision", "bf16"])


def figure2(size: Size) -> None:
    """A sweep from the command to its results, on real MNIST."""
    command = [sys.executable, "-m", "metaphase.sweeps.run", "figure2-small"]
    if size.toy:
        command[-1:] = ["quickstart"]
        for setting in ("model_size=[4]", "num_tasks=[1]", "seed=[0]", "steps=4", "eval_every=2"):
            command += ["--set", setting]
    command += ["--executor", "local", "--root", str(size.out / "results")]
    subprocess.run(command, check=True)


def lstm(size: Size) -> None:
    """The LSTM's steps, which are many launches."""
    for width in size.lstm_widths:
        cell = size.cell(width, architecture="lstm")
        step, _ = ours(replicas_of(cell, size.replicas), size.device, size.timer)
        print(
            f"width {width:>4}: {1e3 * step / size.replicas:9.3f} ms a step and replica", flush=True
        )


def tests(size: Size) -> None:
    """The tests of what runs on a GPU."""
    files = ["tests/core/kernels", "tests/core/training/test_trainer.py", "tests/core/test_rng.py",
             "tests/core/tasks", "tests/core/architectures"]  # fmt: skip
    options = ["-q", "-p", "no:cacheprovider"]
    files = ["tests/core/test_devices.py", "-k", "cpu"] if size.toy else files
    subprocess.run([sys.executable, "-m", "pytest", *options, *files], check=True)


PARTS: dict[str, tuple[Callable[[Size], None], int]] = {  # and the seconds that it may take
    "checks": (checks, 480),
    "limits": (limits, 60),
    "throughput": (steps, 240),
    "profile": (profile, 120),
    "fused": (fused, 120),
    "memory": (memory, 120),
    "vmap": (baselines, 240),
    "tf32": (tf32, 420),
    "phases": (phases, 420),
    "figure2": (figure2, 590),
    "lstm": (lstm, 180),
    "tests": (tests, 590),
}


def _run(name: str, seconds: float, toy: bool, out: Path) -> str:
    """Runs a part in a process of its own, showing and keeping what it prints. Returns how it
    ended."""
    command = [sys.executable, "-u", "-m", "tests.benchmarks.gpu_session", "--part", name]
    started = time.monotonic()
    with (
        (out / f"{name}.log").open("w") as log,
        subprocess.Popen(
            command + ["--toy"] * toy,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as child,
    ):
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, kill)
        timer.start()
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            log.write(line)
            log.flush()
        status = child.wait()
        timer.cancel()
    took = f"after {time.monotonic() - started:.0f} s"
    if killed.is_set():
        return f"killed {took}"
    return f"done {took}" if status == 0 else f"FAILED ({status}) {took}"


def _one_part(name: str, size: Size) -> None:
    with ExitStack() as stack:
        if size.toy:  # compiling takes longer than all else
            as_it_is = lambda function, **options: function  # noqa: E731
            stack.enter_context(mock.patch.object(torch, "compile", as_it_is))
            torch.set_num_threads(1)
        if name not in ("checks", "fused"):  # which try all that there are
            print(adopt_verdicts(size), flush=True)
        PARTS[name][0](size)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; 1 if there is no GPU or one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--toy", action="store_true", help="toys on the CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # this process runs it
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such part; there are {', '.join(PARTS)}")
    if not arguments.toy and not torch.cuda.is_available():
        print("error: there is no GPU here that PyTorch can use", file=sys.stderr)
        return 1
    size = Size(arguments.toy)
    if arguments.part:
        _one_part(arguments.part, size)
        return 0
    size.out.mkdir(parents=True, exist_ok=True)
    print(f"{device_name(size.device)}, torch {torch.__version__}", flush=True)
    ended = {}
    for name in arguments.parts or PARTS:
        print(f"\n== {name}: {PARTS[name][0].__doc__}", flush=True)
        seconds = PARTS[name][1] * (10 if arguments.toy else 1)  # toys say nothing of speed
        ended[name] = _run(name, seconds, arguments.toy, size.out)
        print(f"== {name}: {ended[name]}", flush=True)
    lines = [f"{name:<12} {how}" for name, how in ended.items()]
    (size.out / "summary.txt").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    return int(any(not how.startswith("done") for how in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
