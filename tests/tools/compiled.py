"""What the compiler makes of the Triton kernels for NVIDIA's GPUs. Needs none.

    python -m tests.tools.compiled                     # a JSON line for each GPU, kernel and shape
    python -m tests.tools.compiled --gpus 80 89 attention mlp

A kernel that the interpreter runs may still not compile, want more shared memory than a
multiprocessor has, or keep its numbers in memory because registers ran out: all of that shows here.
The exit status is 1 if a kernel that would be launched on a GPU takes more than that has.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.kernels.cuda import attention, mlp, projection
from metaphase.core.tasks import projected_images

# Of a program, at most (CUDA C++ programming guide, "Technical Specifications per Compute
# Capability"): 64, 163, 99, 227, 227 and 99 KB.
SHARED_BYTES = {75: 65_536, 80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
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
    count = {
        name: len(re.findall(rf"\b{name}\b", code)) for name in ("HGMMA", "HMMA", "LDL", "STL")
    }
    return {"registers": registers, "stack": stack, "shared": made.metadata.shared, **count}


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
) -> tuple[str, Iterator]:
    R, B, HK = 2, 3, shape.heads * shape.key_size
    h = torch.zeros(R, B * shape.tokens, D)
    weights = torch.zeros(R, D, HK), torch.zeros(R, D, 2 * HK), torch.zeros(R, HK, D)
    assert attention.supports(h, shape, precision)

    def call():
        context = _Context()
        block = attention._Attention
        y = block.forward(context, h, *weights, shape, precision, attention.Tiles())
        block.backward(context, y)

    name = f"attention D {D} S {shape.tokens} K {shape.key_size} {precision}"
    return name, launches(attention, ("_forward", "_backward"), call)


def mlps(D: int, M: int, precision: mlp.Precision) -> tuple[str, Iterator]:
    h, up = torch.zeros(2, 9_000, D), torch.zeros(2, D, M)
    assert mlp.supports(h, precision)

    def call():
        context = _Context()
        down = torch.zeros(2, M, D)
        y = mlp._MLP.forward(context, h, up, torch.zeros(2, 1, M), down, precision, mlp.Tiles())
        mlp._MLP.backward(context, y)

    return f"mlp D {D} M {M} {precision}", launches(mlp, ("_forward", "_backward"), call)


def everything() -> Iterator[tuple[str, Iterator]]:
    """What the paper's cells and the quickstart's launch."""
    yield from projections(784, 100, "bf16")
    yield from projections(784, 200, "tf32")
    paper = AttentionShape(100, 8, 32)
    yield attentions(16, paper, "bf16")
    yield attentions(64, paper, "bf16")
    yield attentions(32, paper, "tf32")
    yield attentions(16, AttentionShape(100, 2, 32, 1, True), "tf32")
    yield attentions(64, AttentionShape(128, 2, 64, 1, True), "bf16")
    yield mlps(16, 64, "bf16")
    yield mlps(64, 256, "bf16")
    yield mlps(64, 256, "tf32")


def main(argv: list[str]) -> int:
    """Compiles those whose names begin with one of the arguments; without any, all."""
    for name, recorded in everything():
        if argv and not name.startswith(tuple(argv)):
            continue
        for kernel, args, kwargs in recorded:
            line = {"kernel": f"{name}: {kernel.__name__}", **compiled(kernel, args, kwargs)}
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
