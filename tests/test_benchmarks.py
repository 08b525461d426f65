from dataclasses import replace

import torch

from metaphase.core.cell import Cell
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.preset import load_preset
from tests.benchmarks import precision, throughput
from tests.benchmarks.baselines import EagerCell, PlainTransformer
from tests.benchmarks.throughput import PAPER, QUICKSTART


def test_the_quickstarts_cells_are_those_of_the_preset():
    assert precision.quickstart() == list(load_preset("quickstart").cells)


def test_the_papers_shapes_are_possible():
    for k in range(1, 10):
        Cell(model_size=2**k, **PAPER)


def test_the_baseline_is_the_same_model():
    """Same function, so what is timed is the same work."""
    for token_format in ("interleaved", "shifted"):
        cell = replace(Cell(model_size=16, **QUICKSTART), token_format=token_format)
        ours = PackTrainer([cell])
        p = {name: t[0].detach() for name, t in ours.stacks[0].parameters.items()}
        p["head"] += torch.randn_like(p["head"])
        theirs = PlainTransformer(cell)
        with torch.no_grad():
            theirs.embed_x.weight.copy_(p["embed_x"].T)
            theirs.embed_y.weight.copy_(p["embed_y"].T)
            theirs.positions.copy_(p["positions"])
            theirs.head.weight.copy_(p["head"].T)
            for i, block in enumerate(theirs.blocks):
                block.qkv.weight.copy_(torch.cat([p[f"{i}.q"], p[f"{i}.kv"]], dim=1).T)
                block.out.weight.copy_(p[f"{i}.out"].T)
                block.up.weight.copy_(p[f"{i}.up"].T)
                block.up.bias.copy_(p[f"{i}.up_bias"][0])
                block.down.weight.copy_(p[f"{i}.down"].T)
        draw = ours.sampler.draw_training(torch.arange(1))
        batch = ours.sampler.training_batch(draw, torch.tensor([0]))
        onehot = torch.nn.functional.one_hot(batch.y_RxBxT[0], cell.num_classes).float()
        torch.testing.assert_close(
            theirs(batch.x_RxBxTxX[0], onehot),
            ours.stacks[0].predict(batch)[0],
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_eager_baseline_learns():
    cell = replace(Cell(model_size=16, **QUICKSTART), num_tasks=1)
    eager = EagerCell(cell, "data", torch.device("cpu"))
    for _ in range(150):
        eager.step()
    x, y = eager.tasks.batch()
    onehot = torch.nn.functional.one_hot(y, cell.num_classes).float()
    assert (eager.model(x, onehot).argmax(-1) == y).float().mean() > 0.7


def test_the_limits_of_the_papers_shapes(capsys):
    """Shared design: 1 TFLOP a step at width 256, 3 at 512; 1.5 h of arithmetic in all."""
    command = ["--shapes", "paper", "--limits", "790e12", "1e99", "--precision", "bf16"]
    assert throughput.main(command) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    flops = {int(row[0]): float(row[1]) for row in rows[1:-1]}
    assert len(flops) == 9
    assert 0.9e12 < flops[256] < 1.2e12
    assert 2.8e12 < flops[512] < 3.6e12
    assert 1.3 < float(rows[-1][-2]) < 1.9
