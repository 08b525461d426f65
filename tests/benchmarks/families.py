"""What families with known best predictors cost, in CPU seconds of one thread:

    python -m tests.benchmarks.families predictors    # M at N = 2^16, T = 64, 1,024 sequences
    python -m tests.benchmarks.families drawing       # a token's sequences, beside projected images
    python -m tests.benchmarks.families steps         # a replica's step, beside compiled vmap
    python -m tests.benchmarks.families evaluations   # an evaluation, in steps

Steps are those of packs of 8 at width 64 in the papers' shapes: regression as the small model of
Raventos et al. 2023, urns of Wurgaft et al. 2025. The baseline is `baselines.VmapPack` with the
same model, its sequences drawn by torch's own generator, forward and backward compiled.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.cell import Cell
from metaphase.core.evaluation.predictions import Predictions
from metaphase.core.problem import Classes
from metaphase.core.tasks.sequences import open_sequences
from metaphase.core.training.trainer import PackTrainer
from tests.benchmarks.baselines import PlainTransformer

COMMON: dict[str, Any] = {"position_encoding": "learned", "model_size": 64, "warmup_steps": 0}
REGRESSION: dict[str, Any] = {
    **{"task_family": "linear_regression", "dimension": 8, "sequence_length": 16},
    **{"num_layers": 4, "num_heads": 2, "batch_size": 256, "num_tasks": 4096},
}
URNS: dict[str, Any] = {
    **{"task_family": "balls_and_urns", "symbols": 8, "sequence_length": 128, "num_heads": 1},
    **{"token_format": "shifted", "num_layers": 1, "batch_size": 64, "num_tasks": 4096},
}
MARKOV: dict[str, Any] = {
    **{"task_family": "markov_chains", "states": 10, "sequence_length": 512, "num_heads": 4},
    **{"token_format": "shifted", "num_layers": 2, "batch_size": 64, "num_tasks": 2048},
}
SHAPES = {"regression": REGRESSION, "urns": URNS, "markov": MARKOV}
REPLICAS = 8


def cpu_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median of one thread's time, after a call that isn't counted."""
    call()
    times = []
    for _ in range(repeats):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return statistics.median(times)


def predictors() -> None:
    for name, shape in SHAPES.items():
        cell = Cell.from_dict({**shape, "sequence_length": 64, "num_tasks": 2**16})
        sequences = open_sequences([cell], "data", "cpu")
        started = time.thread_time()
        said = Predictions.of(sequences, 1024)
        assert said is not None
        said("unseen")
        seconds = time.thread_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:12}{seconds:8.1f} s  peak of the process {peak:.2f} GiB", flush=True)


def drawing() -> None:
    images: dict[str, Any] = {"image_size": 4, "num_classes": 5, "batch_size": 32}
    shapes = {**SHAPES, "images 4 x 4": {**images, "num_tasks": 4096, "sequence_length": 16}}
    for name, shape in shapes.items():
        cell = Cell.from_dict({**COMMON, **shape})
        sequences = open_sequences([cell], "data", "cpu")
        steps = torch.arange(32)

        def draw(sequences: Any = sequences, steps: Tensor = steps) -> None:
            drawn = sequences.draw_training(steps)
            for j in range(32):
                sequences.training_batch(drawn, steps[j : j + 1])

        seconds = cpu_seconds(draw) / 32
        tokens = cell.batch_size * cell.num_tokens
        print(f"{name:14}{1e3 * seconds:8.2f} ms a step {1e9 * seconds / tokens:8.0f} ns a token")


class Plain(PlainTransformer):
    """The baseline's model for a family's targets, with a start token where there are no inputs."""

    def __init__(self, cell: Cell) -> None:
        torch.nn.Module.__init__(self)
        images = Cell(**COMMON, **{k: getattr(cell, k) for k in ("num_layers", "num_heads")})
        super().__init__(images, spelled_out=True)
        D, X, N = cell.model_size, cell.input_size, cell.problem.target.outputs
        self.interleaved = cell.token_format == "interleaved"
        self.embed_x = torch.nn.Linear(X, D, bias=False) if X else None
        self.start = None if X else torch.nn.Parameter(torch.randn(1, 1, D))
        self.embed_y, self.head = torch.nn.Linear(N, D, bias=False), torch.nn.Linear(D, N)
        self.positions = torch.nn.Parameter(0.02 * torch.randn(cell.num_tokens, D))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.embed_y(y)
        if self.embed_x is None:
            h = torch.cat([self.start.expand(len(y), -1, -1), y[:, :-1]], dim=1)
        else:
            x = self.embed_x(x)
            h = torch.stack([x, x + y], dim=2).flatten(1, 2)
        h = h + self.positions
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h[:, ::2] if self.interleaved else h))


class Compiled:
    """8 cells through torch.func.vmap over stacked modules; forward and backward compiled."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.classes = cell, isinstance(cell.problem.target, Classes)
        modules = [Plain(cell) for _ in range(REPLICAS)]
        self.parameters, _ = torch.func.stack_module_state(modules)  # type: ignore[arg-type]
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=1e-3, fused=True)
        skeleton = Plain(cell).to("meta")

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, shown: Tensor) -> Tensor:
            outputs = torch.func.functional_call(skeleton, parameters, (x, shown))
            if self.classes:
                return F.cross_entropy(outputs.flatten(0, 1), y.flatten())
            return F.mse_loss(outputs, y)

        self.gradients = torch.compile(torch.func.vmap(torch.func.grad(loss)), dynamic=False)
        self.tasks = torch.randn(cell.num_tasks, max(cell.input_size, 1))
        if self.classes:
            count = cell.problem.target.outputs
            self.tasks = torch.distributions.Dirichlet(torch.ones(count)).sample((cell.num_tasks,))

    def step(self) -> None:
        cell, shape = self.cell, (REPLICAS, self.cell.batch_size)
        task = self.tasks[torch.randint(cell.num_tasks, shape)]
        if self.classes:
            y = torch.multinomial(task.flatten(0, 1), cell.sequence_length, replacement=True)
            y = y.view(*shape, -1)
            x, shown = torch.zeros(*shape, 1), F.one_hot(y, task.shape[-1]).float()
        else:
            x = torch.randn(*shape, cell.sequence_length, cell.input_size)
            y = (x * task[:, :, None]).sum(dim=-1, keepdim=True)
            shown = y = y + 0.5 * torch.randn_like(y)
        for name, gradient in self.gradients(self.parameters, x, y, shown).items():
            self.parameters[name].grad = gradient
        self.optimizer.step()


def steps() -> None:
    for name in ("regression", "urns"):
        cells = [Cell.from_dict({**COMMON, **SHAPES[name], "seed": seed}) for seed in range(8)]
        trainer = PackTrainer(cells)
        trainer.train(2)
        ours = cpu_seconds(lambda trainer=trainer: trainer.train(4), 3) / 4
        theirs = cpu_seconds(Compiled(cells[0]).step, 9)
        print(
            f"{name:12}{1e3 * ours / REPLICAS:8.1f} ms a replica's step, compiled vmap "
            f"{1e3 * theirs / REPLICAS:.1f}: {theirs / ours:.2f} times",
            flush=True,
        )


def evaluations() -> None:
    """Without the first one, in which M's predictions are computed."""
    for name, shape in SHAPES.items():
        cells = [Cell.from_dict({**COMMON, **shape, "eval_sequences": 256, "num_tasks": 64})]
        trainer = PackTrainer(cells)
        step = cpu_seconds(lambda trainer=trainer: trainer.train(1), 3)
        seconds = cpu_seconds(trainer._evaluate, 3)
        print(f"{name:12}{1e3 * seconds:8.0f} ms, {seconds / step:.1f} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = {f.__name__: f for f in (predictors, drawing, steps, evaluations)}
    parser.add_argument("what", choices=what)
    torch.set_num_threads(1)
    what[parser.parse_args().what]()


if __name__ == "__main__":
    main()
