"""Cells x steps per second, against what a good engineer would write: one table a device.

    python -m tests.benchmarks.throughput                     # the quickstart's shapes, this device
    python -m tests.benchmarks.throughput --shapes mnist      # MNIST at 14 x 14 pixels
    python -m tests.benchmarks.throughput --shapes paper      # widths 2 ... 512, sequences of 100
    python -m tests.benchmarks.throughput --shapes paper --batch-size 64 --widths 2 16 64
    python -m tests.benchmarks.throughput --shapes paper --limits 790e12 4.3e12   # of an H200

(a) one process a cell, eager; (b) the same, several processes sharing the device; (c) compiled
torch.func.vmap over stacked modules; (d) ours, packs of 1, 8, 32 and what the planner would
choose. Last, all widths in one pack, on the same sequences, as sweeps are trained where these are
dear: what of it is making them, and for the paper's shapes the time to all of Figure 2. The share
of the limit is that of the larger of two times: operations over the measured rate
of large matrix products, bytes over the measured rate of a large copy. With --limits nothing is
run: the table has what these rates alone would allow.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from metaphase.core.cell import Cell
from metaphase.core.kernels.precision import float32_products
from metaphase.core.tasks.sequences import STEPS_PER_DRAW
from metaphase.core.training import cost
from metaphase.core.training.trainer import PackTrainer, device_name
from tests.benchmarks.baselines import EagerCell, VmapPack

FIGURE2_STEPS, FIGURE2_TASK_COUNTS = 30_000, 26  # 234 cells = 9 widths x 26 task counts
PAPER: dict[str, Any] = {
    "dataset": "random",  # MNIST's shapes without its files
    "sequence_length": 100,
    "token_format": "shifted",
    "num_layers": 4,
    "num_heads": 8,
    "key_size": 32,
    "batch_size": 512,
    "learning_rate": 3e-4,
    "position_encoding": "learned",
    "num_tasks": 2**25,
}
MNIST: dict[str, Any] = {  # mnist-small's cell, with more tasks than a table has room for
    "dataset": "random",
    "image_size": 14,
    "sequence_length": 16,
    "token_format": "interleaved",
    "num_layers": 2,
    "num_heads": 2,
    "key_size": 8,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "num_tasks": 2**25,
}
QUICKSTART: dict[str, Any] = {  # the preset's cell, for machines that lack what sweeps.preset needs
    "image_size": 4,
    "num_classes": 5,
    "sequence_length": 16,
    "token_format": "interleaved",
    "num_layers": 2,
    "num_heads": 2,
    "key_size": 8,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "position_encoding": "learned",
    "num_tasks": 1024,
}


SHAPES = {"quickstart": QUICKSTART, "mnist": MNIST, "paper": PAPER}


class Timer:
    """Seconds a call takes, on the device: the median of repeats that fill `seconds`."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def __call__(self, call: Callable[[], object]) -> float:
        call()
        call()
        self._wait()
        times: list[float] = []
        while sum(times) < self.seconds or len(times) < 3:
            started = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ceilings(device: torch.device, precision: str, timer: Timer) -> tuple[float, float]:
    """Operations a second of large matrix products on random data in this precision, and bytes a
    second (read plus written) of a large copy."""
    n = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    with float32_products(precision, device):
        rate = 2 * n**3 / timer(lambda: torch.mm(a, b, out=out))
    source = torch.randn(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return rate, 2 * 4 * source.numel() / timer(lambda: target.copy_(source))


def ours(cells: Sequence[Cell], device: torch.device, timer: Timer) -> tuple[float, float]:
    """Seconds of a step of a pack of these cells, and of making its sequences when that is done
    apart: drawing tasks, images and labels, and the inputs A x."""
    free(device)
    trainer = PackTrainer(cells, device=device)
    step = timer(lambda: trainer.train(STEPS_PER_DRAW)) / STEPS_PER_DRAW
    steps = torch.arange(STEPS_PER_DRAW, device=device)
    draw = trainer.sampler.draw_training(steps)
    drawing = timer(lambda: trainer.sampler.draw_training(steps)) / STEPS_PER_DRAW
    batch = captured(lambda: trainer.sampler.training_batch(draw, steps[:1]), device)
    return step, drawing + timer(lambda: [batch() for _ in range(STEPS_PER_DRAW)]) / STEPS_PER_DRAW


def free(device: torch.device) -> None:
    """Gives back what nobody holds any more; what was compiled is cycles."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call as part of a step is: on CUDA replayed from a graph, without its launches."""
    if device.type != "cuda":
        return call
    call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def replicas_of(cell: Cell, count: int) -> list[Cell]:
    """Cells that see different sequences."""
    return [replace(cell, seed=seed) for seed in range(count)]


def _shared_worker(cell: Cell, device: str, seconds: float, start, results) -> None:
    torch.set_num_threads(1)
    eager = EagerCell(cell, "data", torch.device(device))
    for _ in range(3):
        eager.step()
    start.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(5):
            eager.step()
        if device == "cuda":
            torch.cuda.synchronize()
        steps += 5
    results.put(steps / (time.perf_counter() - began))


def shared(cell: Cell, processes: int, device: torch.device, seconds: float) -> float:
    """(b): cells x steps a second of several processes on one device."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(
            target=_shared_worker, args=(cell, device.type, seconds, start, results), daemon=True
        )
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    rate = sum(results.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    return rate


def planned_replicas(cell: Cell, device: torch.device) -> int:
    """Pack size that the planner chooses for a column of the grid on one such device."""
    from metaphase.sweeps.planning.packs import plan
    from metaphase.sweeps.planning.workers import local_workers

    cells = [replace(cell, num_tasks=2**k) for k in range(FIGURE2_TASK_COUNTS)]
    workers = replace(local_workers(), count=1)
    return max(len(pack.cells) for pack in plan(cells, workers))


def measure(
    cell: Cell, device: torch.device, arguments: argparse.Namespace, limits
) -> float | None:
    """Prints the rows of one width. Returns our best cells x steps a second."""
    timer = Timer(device, arguments.seconds)
    rate_limit, copy_limit = limits
    floor = max(cost.flops_per_step(cell) / rate_limit, cost.bytes_per_step(cell) / copy_limit)
    baseline: dict[str, float] = {}
    best = None
    report: list[str] = []  # notes for the next row

    def row(method: str, replicas: int, rate: float | None, note: str = "") -> None:
        if device.type == "cuda":
            memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:7.2f}"
            torch.cuda.reset_peak_memory_stats(device)
        else:
            memory = "      -"
        if rate is None:
            print(f"{cell.model_size:>6} {method:<18} {replicas:>4}  {note}", flush=True)
            return
        against = "".join(
            f"{rate / baseline[k]:8.1f}" if k in baseline else "       -" for k in "ac"
        )
        print(
            f"{cell.model_size:>6} {method:<18} {replicas:>4} {rate:>12.1f} {1e3 / rate:>10.3f} "
            f"{against} {floor * rate:>8.1%} {memory}  {note or ' '.join(report)}",
            flush=True,
        )
        report.clear()

    def attempt(
        method: str, replicas: int, run: Callable[[], float], note: str = ""
    ) -> float | None:
        try:
            rate = run()
        except Exception as error:  # a baseline that can't run is a result too
            row(
                method,
                replicas,
                None,
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:90]}",
            )
            return None
        finally:
            torch._dynamo.reset()  # else another width is another shape of the same code: dynamic
            free(device)
        row(method, replicas, rate)
        return rate

    if "a" in arguments.methods:
        rate = attempt("(a) eager", 1, lambda: 1 / timer(EagerCell(cell, "data", device).step))
        if rate:
            baseline["a"] = rate
    if "b" in arguments.methods:
        k = arguments.processes
        attempt("(b) k processes", k, lambda: shared(cell, k, device, arguments.seconds))
    if "c" in arguments.methods:
        for replicas in (8, 32):
            rate = attempt(
                "(c) vmap, compiled",
                replicas,
                lambda n=replicas: n / timer(VmapPack(cell, n, "data", device).step),
            )
            if rate:
                baseline["c"] = max(rate, baseline.get("c", 0.0))

    def packed(replicas: int) -> float:
        step, drawing = ours(replicas_of(cell, replicas), device, timer)
        report.append(f"drawing {drawing / step:.0%}")
        return replicas / step

    for replicas in sorted({1, 8, 32, planned_replicas(cell, device)}):
        rate = attempt("(d) ours", replicas, lambda n=replicas: packed(n))
        best = max(rate or 0.0, best or 0.0)
    return best


def together(cells: Sequence[Cell], streams: int, device: torch.device, timer: Timer) -> float:
    """Prints what a pack of all these shapes on the same sequences takes. Returns the seconds of
    its step for each stream of sequences."""
    apart = {}
    for cell in cells:
        step, drawing = ours(replicas_of(cell, streams), device, timer)
        apart[cell.model_size] = step - drawing
    step, drawing = ours([c for one in cells for c in replicas_of(one, streams)], device, timer)
    print(
        f"\nAll {len(cells)} widths on the same {streams} streams of sequences: "
        f"{1e3 * step / streams:.3f} ms a step and stream, making the sequences "
        f"{1e3 * drawing / streams:.3f} ms of it, {drawing / step:.1%}"
    )
    own = drawing / len(cells)  # each cell's share of what it shares
    print("sequences as a share of a cell's step, by width: ", end="")
    print(", ".join(f"{width}: {own / (own + rest):.1%}" for width, rest in apart.items()))
    return step / streams


def print_limits(cells: Sequence[Cell], rate: float, bandwidth: float) -> None:
    """A row a width: what a step and replica can't be faster than, by operations and by bytes.

    Bytes are those of our kernels where they serve a cell (`core.training.cost.bytes_per_step`).
    """
    print("{:>6} {:>12} {:>12} {:>10} {:>10} {:>14}".format(
        "width", "operations", "bytes", "ms by ops", "by bytes", "Figure 2, hours"
    ))  # fmt: skip
    hours = 0.0
    for cell in cells:
        flops, moved = cost.flops_per_step(cell), cost.bytes_per_step(cell)
        seconds = max(flops / rate, moved / bandwidth)
        hours += (column := FIGURE2_TASK_COUNTS * FIGURE2_STEPS * seconds / 3600)
        print(
            f"{cell.model_size:>6} {flops:>12.2e} {moved:>12.2e} {1e3 * flops / rate:>10.3f} "
            f"{1e3 * moved / bandwidth:>10.3f} {column:>14.2f}"
        )
    print(
        f"all widths, {FIGURE2_TASK_COUNTS} task counts, {FIGURE2_STEPS} steps: {hours:.2f} hours"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, and for the paper's shapes the time to all of Figure 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="quickstart")
    parser.add_argument("--widths", type=int, nargs="*")
    parser.add_argument("--batch-size", type=int, help="default: the preset's (paper: 512)")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--methods", default="abcd", help="baselines to run beside ours (abcd)")
    parser.add_argument("--processes", type=int, default=4 if torch.cuda.is_available() else 2)
    parser.add_argument("--limits", type=float, nargs=2, metavar=("FLOPS", "BYTES"))
    parser.add_argument("--streams", type=int, default=4, help="of the pack of all widths")
    parser.add_argument("--seconds", type=float, default=2.0, help="to time each row")
    arguments = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # as a worker has; rows are per core
    paper = arguments.shapes == "paper"
    precision = arguments.precision or ("bf16" if paper and device.type == "cuda" else "fp32")
    widths = arguments.widths or ([2**k for k in range(1, 10)] if paper else [4, 8, 16, 32])
    shape = SHAPES[arguments.shapes]
    if arguments.batch_size:
        shape = shape | {"batch_size": arguments.batch_size}
    cells = [Cell(model_size=width, precision=precision, **shape) for width in widths]
    if arguments.limits:
        print_limits(cells, *arguments.limits)
        return 0
    limits = ceilings(device, precision, Timer(device, arguments.seconds))
    print(
        f"{device_name(device)}, torch {torch.__version__}, {arguments.shapes} shapes, "
        f"{precision}: matrix products {limits[0] / 1e12:.2f} TFLOP/s, "
        f"copy {limits[1] / 1e9:.0f} GB/s"
    )
    head = ("width", "method", "R", "cells*steps/s", "ms each", "x (a)", "x (c)", "of limit", "GB")
    print("{:>6} {:<18} {:>4} {:>12} {:>10} {:>8}{:>8} {:>8} {:>7}".format(*head), flush=True)
    best: dict[int, float] = {}
    for cell in cells:
        rate = measure(cell, device, arguments, limits)
        if rate:
            best[cell.model_size] = rate
    count = FIGURE2_TASK_COUNTS * FIGURE2_STEPS
    if paper:
        print(
            f"\nTime to Figure 2: {FIGURE2_TASK_COUNTS} task counts, {FIGURE2_STEPS} steps a cell"
        )
        for width, rate in best.items():
            print(f"  width {width:>4}: {count / rate / 3600:6.2f} GPU-hours by itself")
        total = sum(count / rate / 3600 for rate in best.values())
        print(f"  {len(best)} widths: {total:.2f} GPU-hours a seed by themselves", flush=True)
    seconds = together(cells, arguments.streams, device, Timer(device, arguments.seconds))
    if paper:
        print(f"  on the same sequences: {count * seconds / 3600:.2f} GPU-hours a seed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
