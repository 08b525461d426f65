"""What the compiler makes of the Triton kernels for NVIDIA's GPUs. Needs none.

    python -m tests.tools.compiled                     # a JSON line for each GPU, kernel and shape
    python -m tests.tools.compiled --gpus 80 89 attention mlp

A kernel that the interpreter runs may still not compile, want more shared memory than a
multiprocessor has, or keep its numbers in memory because registers ran out: all of that shows here.
The exit status is 1 if a kernel that would be launched on a GPU takes more than that has.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.kernels.cuda import (
    adam,
    attention,
    lstm,
    lstm_cell,
    mixing,
    mlp,
    projection,
    rows,
)
from metaphase.core.kernels.cuda.common import Limits
from metaphase.core.tasks import projected_images

# Of a program, at most (CUDA C++ programming guide, "Technical Specifications per Compute
# Capability"): 64, 163, 99, 227, 227 and 99 KB.
SHARED_BYTES = {75: 65_536, 80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
TENSOR_COLUMNS = 512  # of tensor memory that a program may take on sm_100
MATRIX_UNITS = ("HMMA", "HGMMA", "UTCHMMA")  # instructions for them, up to sm_89, on 90, on 100
_ROTARY = AttentionShape(128, 2, 64, 1, True)
_OPTIONS = ("num_warps", "num_stages")


def launches(module: ModuleType, names: tuple[str, ...], call: Callable[[], Any]) -> Iterator:
    """The kernels that a call would launch, with their arguments; nothing runs."""
    recorded: list[tuple] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **kwargs: recorded.append((self.kernel, args, kwargs))

    kept = {name: getattr(module, name) for name in (*names, "check_on_device")}
    try:
        for name in names:
            setattr(module, name, Recorder(kept[name]))
        module.check_on_device = lambda *tensors: None  # type: ignore[attr-defined]
        call()
    finally:
        for name, value in kept.items():
            setattr(module, name, value)
    return iter(recorded)


def compiled(kernel: Any, args: tuple, kwargs: dict[str, Any], gpu: int = 90) -> dict[str, int]:
    """Compiles a launch as Triton would on an sm_`gpu`; what it takes of a multiprocessor."""
    options = {name: kwargs[name] for name in _OPTIONS if name in kwargs}
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: value for name, value in kwargs.items() if name not in options}
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        value = values[name]
        divisible = isinstance(value, torch.Tensor)
        one = isinstance(value, int) and value == 1
        if kernel.params[position].is_constexpr or value is None or one:
            signature[name], constants[(position,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
        elif isinstance(value, int):
            signature[name], divisible = "i32", value % 16 == 0
        else:
            signature[name] = "fp32"
        if divisible and signature[name] != "constexpr":
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", gpu, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout
            for command in (
                [str(tools / "cuobjdump"), "--dump-resource-usage"],
                [str(tools / "nvdisasm"), "-c"],
            )
        )
    registers, stack = (int(n) for n in re.findall(r"(?:REG|STACK):(\d+)", usage)[:2])
    count = {name: len(re.findall(rf"\b{name}\b", code)) for name in (*MATRIX_UNITS, "LDL", "STL")}
    takes = {"registers": registers, "stack": stack, "shared": made.metadata.shared}
    return takes | {"columns": getattr(made.metadata, "tmem_size", 0)} | count


class _Context:
    saved_tensors: tuple = ()

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def projections(X: int, T: int, precision: projection.Precision) -> Iterator[tuple[str, Iterator]]:
    images, index = torch.zeros(9, X), torch.zeros(2, 3, T, dtype=torch.int64)
    task, seed = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    table = torch.zeros(1, 2, X, X, dtype=torch.bfloat16)
    for name, source in (
        ("drawn", {"seed_G": seed}),
        ("table", {"table_UxNxXxX": table, "row_G": seed}),
        ("noise", {"seed_G": seed, "noise": projected_images.noise_table(X, 12)}),
    ):

        def call(source=source):
            fast = projection.image_table(images, precision)
            projection.project(fast, index, task, size=X, precision=precision, **source)

        yield f"{name} X {X} T {T} {precision}", launches(projection, ("_project",), call)


def attentions(
    D: int, shape: AttentionShape, precision: attention.Precision
) -> Iterator[tuple[str, Iterator]]:
    R, B, HK = 2, 3, shape.heads * shape.key_size
    h = torch.zeros(R, B * shape.tokens, D)
    weights = torch.zeros(R, D, HK), torch.zeros(R, D, 2 * HK), torch.zeros(R, HK, D)
    if not attention.supports(h, shape, precision):
        return

    def call():
        context = _Context()
        block = attention._Attention
        y = block.forward(context, h, *weights, shape, precision, attention.Tiles())
        block.backward(context, y)

    name = f"attention D {D} S {shape.tokens} K {shape.key_size} {precision}"
    yield name, launches(attention, ("_forward", "_backward"), call)


def mlps(D: int, M: int, precision: mlp.Precision) -> Iterator[tuple[str, Iterator]]:
    h, up = torch.zeros(2, 9_000, D), torch.zeros(2, D, M)
    if not mlp.supports(h, precision):
        return

    def call():
        context = _Context()
        down = torch.zeros(2, M, D)
        y = mlp._MLP.forward(context, h, up, torch.zeros(2, 1, M), down, precision, mlp.Tiles())
        mlp._MLP.backward(context, y)

    yield f"mlp D {D} M {M} {precision}", launches(mlp, ("_forward", "_backward"), call)


def norms(D: int, precision: str) -> Iterator[tuple[str, Iterator]]:
    h, dtype = torch.zeros(2, 300, D), torch.bfloat16 if precision == "bf16" else torch.float32

    def call():
        half = h.to(dtype)
        for delta, d_sums, operand in ((None, None, False), (half, h, True)):
            _, normed, inverse = rows.norm(h, delta, dtype)
            rows.norm_backward(half, normed, inverse, d_sums, operand)

    yield f"norm D {D} {precision}", launches(rows, ("_norm", "_norm_backward"), call)


def activations(M: int, precision: str) -> Iterator[tuple[str, Iterator]]:
    units = torch.zeros(2, 300, M, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

    def call():
        rows.activate_backward(units, rows.activate(units, torch.zeros(2, 1, M)))

    yield f"units M {M} {precision}", launches(rows, ("_activate", "_activate_backward"), call)


def mixes(shape: AttentionShape, precision: attention.Precision) -> Iterator[tuple[str, Iterator]]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    qkv = torch.zeros(2, 3 * shape.tokens, 3 * shape.heads * shape.key_size, dtype=dtype)
    if not mixing.supports(torch.device("cuda"), shape, precision):
        return

    def call():
        mixing.mix_backward(mixing.mix(qkv, shape, precision), qkv, shape, precision)

    name = f"mix L {shape.tokens} K {shape.key_size} {precision}"
    yield name, launches(mixing, ("_mix", "_mix_backward"), call)


def adams(decays: bool) -> Iterator[tuple[str, Iterator]]:
    buffers, one = torch.zeros(4, 2, 4096), torch.zeros(2)

    def call():
        adam.adam(
            *buffers, step=torch.tensor(0), betas=(0.9, 0.999), rate_R=one, rate_P=buffers[0, 0],
            epsilon_R=one, alive_R=one == 0.0, decay_R=one if decays else None,
        )  # fmt: skip

    yield f"adam{', decays' * decays} fp32", launches(adam, ("_adam",), call)


def scans(D: int, precision: lstm.Precision) -> Iterator[tuple[str, Iterator]]:
    a, w = torch.zeros(2, 3, 2 if D > lstm.MAX_WIDTH else 100, 4 * D), torch.zeros(2, D, 4 * D)
    if not lstm.supports(a):
        return

    def call():
        context = _Context()
        h = lstm._Scan.forward(context, a, w, precision, lstm.tiles_for(D), None)
        lstm._Scan.backward(context, h)

    if lstm.is_whole(D, precision):
        yield f"lstm D {D} {precision}", launches(lstm, ("_forward", "_backward"), call)
        return
    with (
        mock.patch.object(lstm, "check_on_device"),
        mock.patch.object(lstm_cell, "check_on_device", create=True),
    ):
        found = launches(lstm_cell, ("_step", "_step_backward"), call)
    # The first time and one of the others, and back.
    yield f"lstm D {D} fp32", found


def everything() -> Iterator[tuple[str, Iterator]]:
    """What the presets' cells launch."""
    yield from projections(784, 100, "bf16")
    yield from projections(784, 200, "tf32")
    yield from projections(784, 100, "fp32")
    paper = AttentionShape(100, 8, 32)
    for precision in ("bf16", "tf32"):
        for width in (16, 32, 64):  # of a tile: narrower models are padded to 16
            yield from attentions(width, paper, precision)
    yield from attentions(16, AttentionShape(100, 2, 32, 1, True), "tf32")
    yield from attentions(64, _ROTARY, "bf16")
    for decays in (False, True):
        yield from adams(decays)
    for precision in ("bf16", "tf32"):
        for width in (16, 32, 64):
            yield from mlps(width, 4 * width, precision)
        for width in (16, 128, 256, 512):
            yield from norms(width, precision)
        for width in (16, 32, 64, 128, 256):
            yield from scans(width, precision)
        yield from activations(1024, precision)
        for shape in (paper, *(AttentionShape(64, 2, K) for K in (32, 64)), _ROTARY):
            yield from mixes(shape, precision)
    yield from scans(512, "tf32")


def main(argv: list[str]) -> int:
    """Compiles what begins with one of the arguments, without any all, for the GPUs named, without
    any all. Returns 1 if something that would be launched doesn't fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--gpus", type=int, nargs="*", choices=SHARED_BYTES, default=[*SHARED_BYTES]
    )
    arguments = parser.parse_args(argv)
    unfit = 0
    for gpu in arguments.gpus:
        has = Limits(gpu, SHARED_BYTES[gpu])
        with ExitStack() as stack:
            for module in (attention, lstm, mixing, mlp, projection):
                stack.enter_context(mock.patch.object(module, "limits", return_value=has))
            if not projection.supports(torch.device("cuda")):
                print(json.dumps({"gpu": gpu, "kernel": "none: plain PyTorch"}), flush=True)
                continue
            for name, recorded in everything():
                if arguments.names and not name.startswith(tuple(arguments.names)):
                    continue
                for kernel, args, kwargs in recorded:
                    line = {"gpu": gpu, "kernel": f"{name}: {kernel.__name__}"}
                    line |= compiled(kernel, args, kwargs, gpu)
                    fits = line["shared"] <= SHARED_BYTES[gpu] and line["columns"] <= TENSOR_COLUMNS
                    unfit += not fits
                    line |= {"of": SHARED_BYTES[gpu], "fits": fits}
                    print(json.dumps(line), flush=True)
    return int(unfit > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
