"""The settings that cells have, each declared once (`core.settings`).

Plain Python, as `core.cell` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.datasets import DATASETS
from metaphase.core.evaluation import METRICS
from metaphase.core.settings import MODEL, REPLICA, RUN, STREAM, setting
from metaphase.core.tasks import PROJECTED_IMAGES, TASK_FAMILIES

MAX_TASKS = 2**32  # seen tasks are numbered 0 ... MAX_TASKS - 1; unseen ones start there

TokenFormat = Literal["shifted", "interleaved"]
PositionEncoding = Literal["rotary", "learned", "none"]
Normalization = Literal["own", "base"]
Precision = Literal["fp32", "tf32", "bf16"]
Schedule = Literal["constant", "linear", "cosine", "triangle"]


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """The settings of a cell, as they are said; `core.cell.Cell` checks them and adds those of its
    plug-ins."""

    task_family: str = setting(
        PROJECTED_IMAGES,
        "distribution of tasks",
        STREAM,
        choices=TASK_FAMILIES,
        neutral=PROJECTED_IMAGES,
    )
    architecture: str = setting("transformer", "sequence model", MODEL, choices=ARCHITECTURES)
    model_size: int = setting(
        32,
        "width of the residual stream, of hidden states",
        MODEL,
        least=2,  # layer norm of one number is 0
        greatest=2**16,
    )
    num_tasks: int = setting(
        1, "number of tasks N to train on, up to 2^32", STREAM, REPLICA, least=1, greatest=MAX_TASKS
    )
    seed: int = setting(
        0,
        "seed of the tasks, the batches and the initial weights",
        STREAM,
        REPLICA,
        least=0,
        greatest=2**32 - 1,
    )

    dataset: str = setting("digits", "base dataset", STREAM, choices=DATASETS, absent="")
    image_size: int = setting(
        None,
        "side the images are resized to, pixels; null: as they are",
        STREAM,
        least=1,
        greatest=2**8,
        absent=0,
    )
    grayscale: bool = setting(False, "average the colour channels", STREAM, absent=False)
    num_classes: int = setting(
        None,
        "use the first this many classes; null: all, of glyphs 10",
        STREAM,
        least=2,  # to the dataset's
        absent=0,
    )
    unseen_datasets: tuple[str, ...] = setting(
        (),
        "further datasets for splits unseen/<dataset>",
        STREAM,
        choices=DATASETS,
        item="dataset",
        absent=(),
        stored="separated by commas; empty if there are none",
    )
    normalization: Normalization = setting(
        "own",
        "whose training images normalize a further set",
        STREAM,
        neutral="base",
        absent="own",
        stored="its `own`, or those of the `base` dataset; `own` where there is no further set",
    )

    identity_share: float = setting(
        0.0,
        "share of the seen tasks that keep labels as they are",
        STREAM,
        REPLICA,
        least=0,
        greatest=1,
        absent=0.0,
        stored="splits of seen tasks have the share that training ends with, unseen tasks none",
    )
    identity_steps: int = setting(
        0,
        "steps over which identity_share falls to 0; 0: it stays",
        STREAM,
        REPLICA,
        least=0,
        greatest=2**31,
        absent=0,
    )

    zipf_exponent: float = setting(
        0.0,
        "the r-th seen task is trained on in proportion to r^-this; 0: all alike",
        STREAM,
        REPLICA,
        least=0,
        greatest=10,
        neutral=0.0,
        absent=0.0,
    )
    burstiness: float = setting(
        0.0,
        "share of the training sequences that have few classes",
        STREAM,
        REPLICA,
        least=0,
        greatest=1,
        neutral=0.0,
        absent=0.0,
        stored="those of evaluations have all",
    )
    burst_classes: int = setting(
        2,
        "classes that a bursty sequence has, fewer than num_classes",
        STREAM,
        REPLICA,
        least=1,
        greatest=2**16,
        neutral=2,
        absent=2,
        stored="2 where burstiness is 0",
    )
    label_noise: float = setting(
        0.0,
        "share of the training examples with a label drawn from all, alike",
        STREAM,
        REPLICA,
        least=0,
        greatest=1,
        neutral=0.0,
        absent=0.0,
        stored="evaluations have none",
    )

    sequence_length: int = setting(16, "labelled examples in a sequence, T", STREAM, least=2)
    token_format: TokenFormat = setting("interleaved", "how examples become tokens", MODEL)

    num_layers: int = setting(2, "blocks, layers", MODEL, least=1, greatest=1000)
    num_heads: int = setting(
        2, "heads of attention or of the memory", MODEL, least=1, greatest=2**12, unused=0
    )
    key_size: int = setting(
        None,
        "size of a head's keys and values; null: model_size / num_heads",
        MODEL,
        least=1,
        greatest=2**12,
        unused=0,
    )
    mlp_ratio: float = setting(
        4,
        "hidden units of a block's MLP over model_size",
        MODEL,
        least=0,
        greatest=2**8,
        exclusive=(True, False),
        unused=0,
        was_whole=True,
    )
    position_encoding: PositionEncoding = setting(
        "rotary",
        "how attention knows positions",
        MODEL,
        unused="none",
    )

    steps: int = setting(1000, "meta-training steps", RUN, least=1, greatest=2**31)
    batch_size: int = setting(32, "sequences in a step's batch", RUN, least=1, greatest=2**20)
    learning_rate: float = setting(
        1e-3,
        "Adam's learning rate after warm-up, before it falls",
        REPLICA,
        least=0.0,
        greatest=float("inf"),
        exclusive=(True, True),
        float32=True,
    )
    mup_base_width: int = setting(
        0,
        "width at which all maps have learning_rate (muP); 0: at all",
        MODEL,
        least=0,
        greatest=2**16,
        neutral=0,
        stored="at other widths rates go with the inverse of the width",
    )
    warmup_steps: int = setting(
        100, "steps over which the learning rate rises linearly", RUN, least=0, greatest=2**31
    )
    learning_rate_schedule: Schedule = setting(
        "constant",
        "what the learning rate does after warm-up, up to `steps`",
        RUN,
        neutral="constant",
        stored="triangle rises over the first half of `steps`, which is its warmup_steps",
    )
    learning_rate_end: float = setting(
        0.0,
        "share of learning_rate that its schedule falls to",
        REPLICA,
        least=0,
        greatest=1,
        neutral=0.0,
        stored="0 where the schedule is constant",
    )
    adam_beta1: float = setting(
        0.9,
        "Adam's decay of the first moment",
        RUN,
        least=0.0,
        greatest=1.0,
        exclusive=(False, True),
    )
    adam_beta2: float = setting(
        0.999,
        "Adam's decay of the second moment",
        RUN,
        least=0.0,
        greatest=1.0,
        exclusive=(False, True),
    )
    adam_epsilon: float = setting(
        1e-8,
        "Adam's epsilon",
        REPLICA,
        least=0.0,
        greatest=float("inf"),
        exclusive=(True, True),
        float32=True,
    )
    weight_decay: float = setting(
        0.0,
        "decoupled weight decay, AdamW's",
        REPLICA,
        least=0,
        greatest=float("inf"),
        exclusive=(False, True),
        float32=True,
        neutral=0.0,
    )
    gradient_clip: float = setting(
        0.0,
        "norm that a cell's gradient is scaled down to where it is larger; 0: never",
        REPLICA,
        least=0,
        greatest=float("inf"),
        exclusive=(False, True),
        float32=True,
        neutral=0.0,
    )
    precision: Precision = setting("fp32", "of matrix products; weights and sums stay float32", RUN)

    eval_every: int = setting(
        250, "steps between evaluations (and checkpoints)", RUN, least=1, greatest=2**31
    )
    eval_growth: float = setting(
        1.0,
        "least ratio of an evaluation's step to the one before; 1: distances stay",
        RUN,
        least=1,
        greatest=1000,
        neutral=1.0,
    )
    eval_sequences: int = setting(
        512, "sequences a split is evaluated on", RUN, least=2, greatest=2**24
    )
    in_weights: bool = setting(
        False,
        "evaluate known tasks under other labels too",
        RUN,
        neutral=False,
        absent=False,
        stored="splits in_weights and in_context",
    )
    stop_when_decided: bool = setting(False, "stop before `steps` once the phase is settled", RUN)
    metrics: tuple[str, ...] = setting(
        (),
        "metrics beside accuracy and loss",
        RUN,
        choices=METRICS,
        item="metric",
        neutral=(),
        stored="separated by commas; empty if there are none",
    )
