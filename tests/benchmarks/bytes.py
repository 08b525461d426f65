"""Bytes of device memory that a training step moves and holds, counted operation by operation.

    python -m tests.benchmarks.bytes                          # the paper's widths, bf16, batch 512
    python -m tests.benchmarks.bytes --operations --widths 2 64
    python -m tests.benchmarks.bytes --fused                  # as if the fused kernels ran

Needs no GPU: tensors have a device, `meta`, and no numbers, so that the code takes the ways it
takes on a GPU. Every operation counts what it reads and writes, views count nothing, and an
operation that PyTorch runs as one kernel is one; so is each of our own, of which --fused counts the
launches, instead of launching them. Autocast is imitated as CUDA has it, and attention
is the fused one that CUDA chooses. What a kernel reads twice, or finds in a cache, isn't known
here. The inputs of the sequences are there before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaphase.core import fast_paths
from metaphase.core.architectures import blocks, lstm
from metaphase.core.cell import Cell
from metaphase.core.tasks.sequences import Batch
from metaphase.core.training import cost
from metaphase.core.training.stack import Stack
from tests.benchmarks.throughput import PAPER

META = torch.device("meta")
_WRITTEN_ONLY = ("copy_", "_foreach_copy_", "fill_", "zero_")  # don't read what they write
_FREE = (
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
)
_HALF = (torch.bmm, torch.mm, torch.matmul)  # that autocast computes in bf16 ...
_WHOLE = (F.layer_norm, F.cross_entropy)  # ... and in float32


class Counted(TorchDispatchMode):
    """Counts what runs inside.

    Attributes:
        moved: {operation: bytes read and written}.
        calls: {operation: how often}.
        live, peak: bytes of all tensors made inside, and the most at any moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for t in tree_leaves((args, kwargs)):
            if isinstance(t, Tensor):
                self._hold(t, made=False)
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        name = schema.name.removeprefix("aten::")
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                self._hold(t)
        writes = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
        is_view = not any(writes) and any(r.alias_info is not None for r in schema.returns)
        if is_view or name in _FREE:
            return result
        read, written = {}, {}
        named = {a.name: value for a, value in zip(schema.arguments, args, strict=False)}
        named |= kwargs or {}
        for argument, write in zip(schema.arguments, writes, strict=True):
            for t in tree_leaves(named.get(argument.name)):
                if isinstance(t, Tensor):
                    if write:
                        written[id(t)] = t
                    if not (write and name in _WRITTEN_ONLY):
                        read[id(t)] = t
        results = (
            [t for t in tree_leaves(result) if isinstance(t, Tensor)] if not any(writes) else []
        )
        self.add(name, [*read.values(), *written.values(), *results])
        return result

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Counts an operation that reads or writes these."""
        self.calls[name] += 1
        self.moved[name] += sum(map(_bytes, tensors))

    def _hold(self, t: Tensor, made: bool = True) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if made else 0
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _bytes(t: Tensor) -> int:
    """What of a tensor is in memory: of one that is expanded, its storage."""
    return min(t.numel() * t.element_size(), t.untyped_storage().nbytes())


class CudasWays(TorchFunctionMode):
    """Attention as CUDA chooses it, and autocast inside `autocast`."""

    _half = False

    @contextlib.contextmanager
    def autocast(
        self, device_type: str, dtype: torch.dtype = torch.bfloat16, enabled: bool = True
    ) -> Iterator[None]:
        before, self._half = self._half, enabled
        try:
            yield
        finally:
            self._half = before

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._half and func in _HALF:
            args = _cast(args, torch.bfloat16)
        elif self._half and func in _WHOLE:
            args = _cast(args, torch.float32)
        elif func is F.scaled_dot_product_attention:
            return _attention(
                *_cast(args, torch.bfloat16 if self._half else torch.float32), **kwargs
            )
        return func(*args, **kwargs)


def _cast(args: tuple, dtype: torch.dtype) -> tuple:
    return tuple(
        a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
    )


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    ops = torch.ops.aten
    if q.dtype == torch.bfloat16 and attn_mask is None:
        return ops._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(len(q), q.shape[1], -1, -1)
    return ops._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True, 0.0, is_causal)[0]


class _Launches:
    """A kernel that counts the tensors that it is given, instead of running. It reads or writes
    each once, those of its parameters that `changed` names both."""

    def __init__(self, counter: Counted, name: str, kernel: Any, changed: Sequence[str]) -> None:
        self._counter, self._name, self._changed = counter, name, changed
        self._parameters = kernel.arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            moved = []
            for name, value in [*zip(self._parameters, args, strict=False), *kwargs.items()]:
                if isinstance(value, Tensor):
                    moved += [value] * (1 + (name in self._changed))
            self._counter.add(self._name, moved)

        return launch


def _kernels() -> list[tuple[ModuleType, dict[str, tuple[str, ...]]]]:
    """The modules of kernels that a step launches, with what each of these changes in place."""
    from metaphase.core.kernels.cuda import adam, attention, lstm_cell, mixing, mlp, rows
    from metaphase.core.kernels.cuda import lstm as scan

    whole: dict[str, tuple[str, ...]] = {"_forward": (), "_backward": ()}
    return [
        (attention, whole),
        (mlp, whole),
        (rows, {"_norm": (), "_norm_backward": (), "_activate": (), "_activate_backward": ()}),
        (mixing, {"_mix": (), "_mix_backward": ()}),
        (scan, whole),
        (lstm_cell, {"_step": (), "_step_backward": ("d_cell",)}),
        (adam, {"_adam": ("theta", "moment1", "moment2")}),
    ]


@contextlib.contextmanager
def launching(cell: Cell, counter: Counted) -> Iterator[None]:
    """Inside, our own kernels are used as where they have been found right and faster."""
    with contextlib.ExitStack() as stack:
        patch = lambda *a: stack.enter_context(mock.patch.object(*a))  # noqa: E731
        stack.enter_context(mock.patch.dict(os.environ, METAPHASE_FUSED="1"))
        patch(fast_paths, "_off", {})
        patch(fast_paths, "may_fuse", lambda device: True)
        for architecture in (blocks, lstm):
            patch(architecture, "precision_on_cuda", lambda: cell.precision)
        for module, kernels in _kernels():
            if hasattr(module, "check_on_device"):
                patch(module, "check_on_device", lambda *tensors: None)
            for name, changed in kernels.items():
                label = module.__name__.rpartition(".")[2] + name
                kernel = getattr(module, name)
                patch(module, name, _Launches(counter, label, kernel, changed))
        yield
        if fast_paths.said():
            raise RuntimeError(fast_paths.said())


@dataclass
class Step:
    """What was counted of a step of R replicas."""

    counter: Counted
    replicas: int
    kept: int = field(default=0)

    @property
    def moved(self) -> float:
        """Bytes a replica."""
        return sum(self.counter.moved.values()) / self.replicas


@contextlib.contextmanager
def pretending(cell: Cell, counter: Counted, fused: bool) -> Iterator[None]:
    """Inside, `meta` is computed on as CUDA is."""
    ways = CudasWays()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "autocast", ways.autocast))
        if fused:
            stack.enter_context(launching(cell, counter))
        stack.enter_context(ways)
        yield
    blocks._mask_QxL.cache_clear()


def count(cell: Cell, replicas: int = 1, fused: bool = False) -> Step:
    """Counts a training step of replicas of a cell."""
    cells = [replace(cell, seed=seed) for seed in range(replicas)]
    B, T, X = cell.batch_size, cell.sequence_length, cell.input_size
    dtype = torch.bfloat16 if cell.precision == "bf16" else torch.float32
    counter = Counted()
    with pretending(cell, counter, fused):
        with counter:
            stack = Stack(cells, META)
            x = torch.empty(replicas, B, T, X, dtype=dtype, device=META)
            batch = Batch(x, torch.empty(replicas, B, T, dtype=torch.int64, device=META))
            step = torch.empty((), dtype=torch.int64, device=META)
        counter.moved.clear()
        counter.calls.clear()
        counter.peak, kept = counter.live, counter.live
        with counter:
            stack.train(batch, step)
    return Step(counter, replicas, kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line a width, and with --operations one for each operation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[2**k for k in range(1, 10)])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16")
    parser.add_argument("--architecture", default="transformer")
    parser.add_argument("--operations", action="store_true", help="what each kind of them moves")
    parser.add_argument("--fused", action="store_true", help="as if the fused kernels ran")
    arguments = parser.parse_args(argv)
    print(f"{'width':>6} {'GB moved':>9} {'by cost':>9} {'GB held':>9} {'operations':>11}")
    for width in arguments.widths:
        cell = Cell(
            **PAPER | {"batch_size": arguments.batch_size},
            model_size=width,
            precision=arguments.precision,
            architecture=arguments.architecture,
        )
        step = count(cell, arguments.replicas, arguments.fused)
        by_cost = cost.bytes_per_step(cell, kernels=arguments.fused)
        held = step.counter.peak / step.replicas
        print(
            f"{width:>6} {step.moved / 1e9:>9.2f} {by_cost / 1e9:>9.2f} {held / 1e9:>9.2f} "
            f"{sum(step.counter.calls.values()):>11}",
            flush=True,
        )
        if arguments.operations:
            for name, moved in step.counter.moved.most_common(16):
                calls = step.counter.calls[name]
                print(f"       {moved / step.replicas / 1e9:>9.3f}  {calls:>4} x {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
