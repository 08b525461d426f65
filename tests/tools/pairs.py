"""Random cells, alone and in a pack: the same bits.

python -m tests.tools.pairs --pairs 300            # a seed of its own each time; it is printed
python -m tests.tools.pairs --pairs 1 --seed 17    # that pair again
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Any

import torch

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.training.trainer import PackTrainer


def random_cells(draw: random.Random) -> list[Cell]:
    """Cells of one pack, of any architectures, sizes and formats, some with the same sequences."""
    shared: dict[str, Any] = {
        "image_size": draw.choice([1, 2, 3, 4, 5, 7, 8]),
        "num_classes": draw.randint(2, 10),
        "sequence_length": draw.choice([2, 3, 4, 5, 8, 13, 16, 24, 40]),
        "batch_size": draw.choice([1, 1, 2, 3, 5, 7, 8, 16]),
        "steps": draw.randint(2, 5),
        "warmup_steps": draw.randint(0, 4),
        "eval_every": draw.randint(2, 5),
        "eval_growth": draw.choice([1.0, 1.5]),
        "learning_rate_schedule": draw.choice(["constant", "linear", "cosine", "triangle"]),
        "eval_sequences": draw.choice([2, 3, 8, 17]),
        "in_weights": draw.random() < 0.2,
    }
    cells: list[Cell] = []
    models = [_random_model(draw) for _ in range(draw.randint(1, 3))]
    own_seeds = draw.random() < 0.5
    while len(cells) < draw.randint(2, 6):
        settings = shared | draw.choice(models)
        settings |= {
            "num_tasks": draw.choice([1, 2, 5, 100, 2**20, 2**32]),
            "seed": draw.randint(0, 9) if own_seeds else 3,
            "learning_rate": draw.choice([1e-4, 3e-3, 1e-2]),
            "adam_epsilon": draw.choice([1e-8, 1e-5]),
            "identity_share": draw.choice([0.0, 0.0, 0.5]),
            "identity_steps": draw.choice([0, 3]),
            "zipf_exponent": draw.choice([0.0, 0.0, 0.5, 1.0, 3.0]),
            "burstiness": draw.choice([0.0, 0.0, 0.5, 1.0]),
            "burst_classes": draw.choice([1, 1, 2, 3]),
            "label_noise": draw.choice([0.0, 0.0, 0.3]),
            "learning_rate_end": draw.choice([0.0, 0.1]),
            "weight_decay": draw.choice([0.0, 0.0, 0.1, 10.0]),
            "gradient_clip": draw.choice([0.0, 0.0, 0.01, 1.0]),
        }
        try:
            cell = Cell(**settings)
        except ConfigError:  # such as a sequence too long for two classes
            return random_cells(draw)
        if cell not in cells:
            cells.append(cell)
    return cells


def _random_model(draw: random.Random) -> dict[str, Any]:
    width, heads = draw.randint(2, 64), draw.randint(1, 4)
    return {
        "architecture": draw.choice(list(ARCHITECTURES)),
        "model_size": draw.choice([2, 3, 4, 8, 16, 17, 33, width]),
        "num_layers": draw.randint(1, 3),
        "num_heads": heads,
        "key_size": draw.choice([4, 6, 8, 16]),
        "mlp_ratio": draw.randint(1, 4),
        "token_format": draw.choice(["shifted", "interleaved"]),
        "position_encoding": draw.choice(["rotary", "learned", "none"]),
    }


def differences(cells: list[Cell], draw: random.Random) -> list[str]:
    """What of one of these cells differs, trained alone and in the pack of all of them."""
    pack = _trained(cells)
    r = draw.randrange(len(cells))
    alone = _trained([pack.cells[r]])
    [state], packed = alone.states(), pack.states()[r]
    found = [
        name
        for name in ("theta", "moment1", "moment2")
        if not torch.equal(state[name], packed[name])
    ]
    if alone.history[0] != pack.history[r]:
        found.append("history")
    (row, curves), (packed_row, packed_curves) = alone.results()[0], pack.results()[r]
    for one in (row, packed_row):
        del one["wall_seconds"]
    if repr(row) != repr(packed_row) or curves != packed_curves:  # in words, NaN is NaN
        found.append("results")
    return found


def _trained(cells: list[Cell]) -> PackTrainer:
    trainer = PackTrainer(cells)
    while not trainer.finished:
        trainer.advance()
    return trainer


def try_pair(seed: int) -> str | None:
    """What differs in the pair with this number, in words; None: nothing."""
    draw = random.Random(seed)
    cells, threads = random_cells(draw), draw.choice([1, 2])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = differences(cells, draw)
    finally:
        torch.set_num_threads(before)
    if not found:
        return None
    return f"pair {seed}, {threads} threads: {', '.join(found)} differ; cells {cells}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, help="of the first pair; the next ones count up")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**9)
    started = time.perf_counter()
    found = [text for i in range(arguments.pairs) if (text := try_pair(seed + i))]
    print("\n".join(found))
    seconds = time.perf_counter() - started
    print(f"{arguments.pairs} pairs from seed {seed}: {len(found)} differ; {seconds:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
