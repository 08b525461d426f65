"""The Triton kernels: are they right, how fast, and with which constants fastest. Needs a GPU.

    python -m tests.benchmarks.kernels                        # widths 2 ... 512, batches 64 and 512
    python -m tests.benchmarks.kernels --widths 16 --batches 512 --only attention

Every kernel is first compared with its plain twin in float64 on fresh random inputs, its outputs
poisoned with NaN. Then each of a few choices of its constants is timed, and PyTorch's way of the
same. The table last has the best of each. `floor` is the larger of operations over the measured
rate of a large matrix product, and bytes that must move over the measured rate of a large copy.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaphase.core.architectures import blocks, lstm
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.tasks import projected_images
from tests.benchmarks.throughput import Timer, ceilings

T, HEADS, KEY_SIZE, MLP_RATIO = 100, 8, 32, 4  # the paper's cells
IMAGES, TABLE_TASKS, NOISE_BITS = 60_000, 1024, 24


@dataclass
class Row:
    """A line of the last table: milliseconds, and the floor's share of them."""

    what: str
    error: float
    ours: float
    constants: str
    torch: float
    floor: float

    def __str__(self) -> str:
        return (
            f"{self.what:42} error {self.error:.1e}  {self.ours:8.3f} ms  torch {self.torch:8.3f}  "
            f"{self.torch / self.ours:5.1f}x  floor {self.floor:7.3f} "
            f"({self.floor / self.ours:4.0%})  {self.constants}"
        )


def milliseconds(call: Callable[[], object]) -> float:
    import triton.testing

    return float(triton.testing.do_bench(call, return_mode="median"))


def best(choices: Sequence, call: Callable[..., object]) -> tuple[float, str]:
    """Times the call with each choice of constants, printing all; the fastest."""
    timed: list[tuple[float, str]] = []
    for choice in choices:
        try:
            timed.append((milliseconds(lambda c=choice: call(c)), str(choice)))
            print(f"    {timed[-1][0]:8.3f} ms  {choice}", flush=True)
        except Exception as error:  # too much shared memory, for one: the others may fit
            print(
                f"    failed       {choice}: {(str(error).splitlines() or [''])[0][:120]}",
                flush=True,
            )
    return min(timed, default=(math.nan, "none ran"))


class Poisoned:
    """Inside, new memory is NaN: what a kernel leaves unwritten shows."""

    def __enter__(self) -> None:
        self.kept = torch.empty, torch.empty_like

        def poisoned(make):
            def filled(*args, **kwargs):
                made = make(*args, **kwargs)
                return made.fill_(torch.nan) if made.is_floating_point() else made

            return filled

        torch.empty, torch.empty_like = map(poisoned, self.kept)

    def __exit__(self, *error: object) -> None:
        torch.empty, torch.empty_like = self.kept


def relative_error(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The worst of several tensors' ||a - b|| / ||b||; NaN if anything is."""
    errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(ours, exact, strict=True)]
    return float("nan") if any(map(math.isnan, errors)) else max(errors)


def projections(
    batch: int, precision: str, rate: float, bandwidth: float, device: torch.device
) -> Iterator[Row]:
    from metaphase.core.kernels.cuda.projection import Tiles, image_table, project

    choices = [
        Tiles(rows, columns, warps, stages)
        for rows, columns, warps in [(64, 32, 4), (64, 64, 4), (128, 32, 8), (128, 64, 8)]
        for stages in (2, 3, 4)
    ]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for size in (64, 784):
        images = torch.randn(IMAGES, size, device=device)
        fast = image_table(images, precision)
        index = torch.randint(IMAGES, (1, batch, T), device=device)
        task = torch.randint(TABLE_TASKS, (1, batch), device=device)
        seed, row = torch.tensor([7], device=device), torch.tensor([0], device=device)
        numbers = torch.arange(TABLE_TASKS, device=device).split(32)
        table = torch.cat(
            [projected_images.projections(seed, part, size).to(dtype) for part in numbers]
        )[None]
        noise = projected_images.noise_table(size, NOISE_BITS, device)
        some = slice(0, min(batch, 64))  # for which the twins are computed, in float64
        x = images[index[:, some]].double()
        a = projected_images.projections(seed[:, None], task[:, some], size).double()
        a_noise = projected_images.noise_projections(
            seed[:, None], task[:, some], size, noise
        ).double()
        raw = images.to(dtype)

        def gathered(table=table, raw=raw, index=index, task=task) -> Tensor:
            return torch.bmm(raw[index[0]], table[0, task[0]].mT)

        def drawn(raw=raw, index=index, batch=batch, size=size) -> Tensor:
            fresh = torch.randn(batch, size, size, device=device, dtype=dtype)
            return torch.bmm(raw[index[0]], fresh.mT * size**-0.5)

        flops = 2 * batch * T * size**2
        moved = batch * T * size * dtype.itemsize  # y; images come from the cache
        for name, source, expected, theirs, more in (
            ("drawn", {"seed_G": seed}, a, drawn, 0),
            (
                "table",
                {"table_UxNxXxX": table, "row_G": row},
                table[0, task[:, some]].double(),
                gathered,
                batch * size**2 * dtype.itemsize,
            ),
            ("noise", {"seed_G": seed, "noise": noise}, a_noise, gathered, 0),
        ):

            def ours(tiles=None, source=source, fast=fast, index=index, task=task, size=size):
                return project(
                    fast, index, task, size=size, precision=precision, dtype=dtype, tiles=tiles,
                    **source,
                )  # fmt: skip

            what = f"A x, {name}, {size} pixels, batch {batch}"
            print(what)
            with Poisoned():
                error = relative_error([ours()[:, some]], [x @ expected.mT])
            floor = 1e3 * max(flops / rate, (moved + more) / bandwidth)
            yield Row(what, error, *best(choices, ours), milliseconds(theirs), floor)


def block(
    what: str,
    fused: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    tensors: list[Tensor],
    choices: Sequence,
    precision: str,
    floor: float,
) -> Row:
    """A block of the model, forward and backward."""
    print(what)

    def both(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
        y = function(*inputs)
        return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]

    def theirs(function: Callable[..., Tensor] = plain) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16, precision == "bf16"):
            return both(function, tensors)

    with torch.no_grad():
        grad = torch.randn_like(plain(*tensors))
    R = tensors[0].shape[0]
    checked = [t[: min(R, 2)].detach() for t in tensors]  # float64 takes memory
    exact = [t.double().requires_grad_() for t in checked]
    few = [t.requires_grad_() for t in checked]
    full, grad = grad, grad[: min(R, 2)]
    with Poisoned():
        error = relative_error(both(lambda *t: fused(*t, choices[0]), few), both(plain, exact))
    grad = full
    timed = best(choices, lambda choice: both(lambda *t: fused(*t, choice), tensors))
    reference = milliseconds(theirs)
    torch._dynamo.reset()  # after 8 shapes of the same code it would stop compiling
    fast = torch.compile(plain, dynamic=False)
    compiled = milliseconds(lambda: theirs(fast))
    print(f"    {reference:8.3f} ms  torch\n    {compiled:8.3f} ms  torch, compiled", flush=True)
    return Row(what, error, *timed, min(reference, compiled), floor)


def parameters(R: int, device: torch.device, *shapes: tuple[int, int]) -> list[Tensor]:
    return [
        (torch.randn(R, *shape, device=device) * shape[0] ** -0.5).requires_grad_()
        for shape in shapes
    ]


def attention_blocks(
    width: int, batch: int, R: int, precision: str, rate: float, bandwidth: float, device
) -> Iterator[Row]:
    from metaphase.core.kernels.cuda.attention import Tiles, fused_attention, supports

    shape, HK = AttentionShape(T, HEADS, KEY_SIZE), HEADS * KEY_SIZE
    h = torch.randn(R, batch * T, width, device=device).requires_grad_()
    if not supports(h, shape, precision):
        return
    weights = parameters(R, device, (width, HK), (width, 2 * HK), (HK, width))
    choices = [
        Tiles(queries, forward, backward, stages, sequences)
        for queries, forward, backward, stages, sequences in [
            (64, 4, 8, 1, None), (64, 4, 8, 2, None), (128, 8, 8, 1, None), (64, 8, 8, 1, None),
            (32, 4, 8, 1, None), (64, 4, 4, 1, None), (64, 4, 16, 1, None), (64, 4, 8, 1, 1),
            (64, 4, 8, 1, 8),
        ]
    ]  # fmt: skip
    # Of unpadded sizes, half of the scores: what any way must do.
    flops = R * batch * HEADS * T * (15 * 2 * width * KEY_SIZE + 8 * T * KEY_SIZE)
    moved = 5 * h.numel() * 4
    yield block(
        f"attention, width {width}, batch {batch} x {R}",
        lambda h, q, kv, out, tiles: fused_attention(h, q, kv, out, shape, precision, tiles),
        lambda *t: blocks.plain_attention(*t, shape),
        [h, *weights],
        choices,
        precision,
        1e3 * max(flops / rate, moved / bandwidth),
    )


def mlp_blocks(
    width: int, batch: int, R: int, precision: str, rate: float, bandwidth: float, device
) -> Iterator[Row]:
    from metaphase.core.kernels.cuda.mlp import Tiles, fused_mlp, supports

    M = MLP_RATIO * width
    h = torch.randn(R, batch * T, width, device=device).requires_grad_()
    if not supports(h, precision):
        return
    up, down = parameters(R, device, (width, M), (M, width))
    bias = (0.1 * torch.randn(R, 1, M, device=device)).requires_grad_()
    choices = [
        Tiles(forward, backward, 64, hidden, 4, warps, programs)
        for forward, backward, hidden, warps, programs in [
            (64, 64, 64, 8, 128), (128, 64, 64, 8, 128), (64, 32, 64, 8, 128),
            (64, 64, 64, 4, 128), (64, 64, 32, 4, 128), (64, 64, 128, 8, 128),
            (64, 64, 64, 8, 64), (64, 64, 64, 8, 256),
        ]
    ]  # fmt: skip
    yield block(
        f"MLP, width {width}, batch {batch} x {R}",
        lambda h, up, bias, down, tiles: fused_mlp(h, up, bias, down, precision, tiles),
        blocks.plain_mlp,
        [h, up, bias, down],
        choices,
        precision,
        1e3 * max(14 * width * M * R * batch * T / rate, 5 * h.numel() * 4 / bandwidth),
    )


def layers_blocks(
    width: int, batch: int, R: int, precision: str, rate: float, bandwidth: float, device
) -> Iterator[Row]:
    """Attention and MLP as one function, which has no constants to choose from."""
    from metaphase.core.kernels.cuda.layers import fused_layers, supports

    shapes, HK, M = [AttentionShape(T, HEADS, KEY_SIZE), None], HEADS * KEY_SIZE, MLP_RATIO * width
    h = torch.randn(R, batch * T, width, device=device).requires_grad_()
    if not supports(h, shapes, precision):
        return
    sizes = ((width, HK), (width, 2 * HK), (HK, width), (width, M), (1, M), (M, width))
    weights = parameters(R, device, *sizes)
    tokens, number = R * batch * T, 2 if precision == "bf16" else 4
    flops = 3 * tokens * (2 * width * (4 * HK + 2 * M) + 2 * T * HK)
    moved = tokens * (number * (22 * width + 23 * HK + 11 * M) + 32 * width)
    yield block(
        f"layers, width {width}, batch {batch} x {R}",
        lambda h, *rest: fused_layers(h, shapes, rest[:-1], precision),
        lambda h, *weights: blocks.plain_layers(h, shapes, *weights),
        [h, *weights],
        ["no constants"],
        precision,
        1e3 * max(flops / rate, moved / bandwidth),
    )


def scans(
    width: int, batch: int, R: int, precision: str, rate: float, bandwidth: float, device
) -> Iterator[Row]:
    from metaphase.core.kernels.cuda.lstm import Tiles, fused_scan, supports, tiles_for

    a = torch.randn(R, batch, T, 4 * width, device=device).requires_grad_()
    if not supports(a):
        return
    usual = tiles_for(width)
    choices = [
        usual,
        *(Tiles(sequences, usual.units, usual.warps) for sequences in (32, 64)),
        *(Tiles(16, usual.units, warps) for warps in (2, 4, 8, 16) if warps != usual.warps),
        *(Tiles(16, units, usual.warps) for units in (16, 32, 64, 128) if units != usual.units),
    ]
    yield block(
        f"LSTM, width {width}, batch {batch} x {R}",
        lambda a, w, tiles: fused_scan(a, w, precision, tiles),
        lstm.plain_scan,
        [a, *parameters(R, device, (width, 4 * width))],
        choices,
        precision,
        1e3 * max(6 * width * a.numel() / rate, 27 / 4 * 4 * a.numel() / bandwidth),
    )


BLOCKS = {"attention": attention_blocks, "mlp": mlp_blocks, "layers": layers_blocks, "lstm": scans}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints all times, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[2**k for k in range(1, 10)])
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--precision", choices=("bf16", "tf32"), default="bf16")
    parser.add_argument("--only", choices=("projection", *BLOCKS))
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("the kernels run on CUDA devices; none is here, so nothing was timed")
        return 0
    device, precision = torch.device("cuda"), arguments.precision
    if precision == "tf32":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    rate, bandwidth = limits = ceilings(device, precision, Timer(device, 0.5))
    print(
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}: {precision} products "
        f"{rate / 1e12:.0f} TFLOP/s, copy {bandwidth / 1e12:.2f} TB/s"
    )
    rows: list[Row] = []
    for batch in arguments.batches:
        if arguments.only in (None, "projection"):
            rows += projections(batch, precision, *limits, device)
        for width in arguments.widths:
            for name, measure in BLOCKS.items():
                if arguments.only in (None, name):
                    rows += measure(width, batch, arguments.replicas, precision, *limits, device)
                    torch.cuda.empty_cache()
    print("\nforward and backward of one layer, all replicas; inputs of one stream")
    print("\n".join(map(str, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
