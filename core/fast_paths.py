"""Fast paths: ways to compute that may not build, run or agree where they are tried. Each has a
plain twin, which takes over.

One that fails is switched off for the rest of the process, with one warning. What is off, and why,
stands in the results.

A path is named by what it computes, and by the shape that it computes it on where that decides
(`named`): "fused MLP D=16 M=64 bf16". What is said of "fused MLP" holds for all its shapes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metaphase.core.devices import out_of_memory
from metaphase.core.settings import as_line

logger = logging.getLogger(__name__)

CPU = "CPU kernels"
ATTENTION, MLP, PROJECTION = "fused attention", "fused MLP", "fused projections"
LAYERS, READ_OUT, ADAM = "fused layers", "fused read-out", "fused Adam"
SCAN = "fused LSTM"
CAPTURE = "captured steps"
# These run only where they have been found right, and faster than their twins, on the shapes at
# hand (`core.training.proofs`), where METAPHASE_FUSED=1 asks for them, and never where it is 0.
ON_PROOF = (ATTENTION, MLP, LAYERS, READ_OUT, ADAM, SCAN)
SLOWER = "slower than its twin"  # begins the reason why a path that is right isn't used


class _Off(NamedTuple):
    """Why a path is off, and whether it has failed in this process."""

    why: str
    failed: bool


_off: dict[str, _Off] = {}
_proven: set[str] = set()
_judge: Callable[[Asked], None] | None = None


def named(path: str, precision: str, **sizes: object) -> str:
    """The name of a path on a shape."""
    return " ".join([path, *(f"{key}={value}" for key, value in sizes.items()), precision])


def may_fuse(device: torch.device) -> bool:
    """Whether there are fused kernels for a device at all."""
    return device.type == "cuda"


def is_on(name: str) -> bool:
    """Whether the path of this name is to be used."""
    path = _path(name)
    if name in _off or path in _off:
        return False
    asked = os.environ.get("METAPHASE_FUSED", "")
    return path not in ON_PROOF or asked == "1" or (name in _proven and asked != "0")


def switch_off(name: str, why: str, asked: bool = False) -> None:
    """Leaves a path to its twin from now on, for this reason, one line, which is logged unless
    somebody asked for it."""
    if name not in _off:
        _off[name] = _Off(why, failed=not asked)
        if not asked:
            logger.warning("%s", warning(name, why))


def warning(name: str, why: str) -> str:
    """What is said of a path that is switched off for this reason."""
    return f"no {name}, plain PyTorch instead: {why}"


def adopt(verdicts: Mapping[str, str]) -> None:
    """Takes over what was found out, and said, elsewhere: {name: why it is off; empty: it is right
    and the faster way}."""
    for name, why in verdicts.items():
        if why:
            switch_off(name, why, asked=True)
        else:
            _proven.add(name)


def failures() -> dict[str, str]:
    """{name: why} of what has failed in this process."""
    return {name: off.why for name, off in _off.items() if off.failed}


def switched_off() -> dict[str, str]:
    """{name: why} of what is off in this process, for whatever reason."""
    return {name: off.why for name, off in _off.items()}


def said() -> str:
    """What is off in this process, for whatever reason, in one line; empty: nothing."""
    return "; ".join(f"{name}: {why}" for name, why in sorted(switched_off().items()))


class Asked(NamedTuple):
    """A path that is asked for, as `attempt` has it, with its arguments."""

    name: str
    fast: Callable[..., Tensor | None]
    twin: Callable[..., Tensor]
    tensors: Sequence[Tensor]
    rows: int


@contextlib.contextmanager
def judged_by(judge: Callable[[Asked], None]) -> Iterator[None]:
    """Inside, `judge` gets every path that is asked for, before it is used or not."""
    global _judge
    before, _judge = _judge, judge
    try:
        yield
    finally:
        _judge = before


def attempt(
    name: str,
    fast: Callable[..., Tensor | None],
    twin: Callable[..., Tensor],
    tensors: Sequence[Tensor] = (),
    rows: int = 0,
) -> Tensor | None:
    """What `fast` makes of the tensors; None if it makes nothing of them, is off, or fails and is
    switched off by that.

    Args:
        twin: what takes over then. The caller does that: it may know a better way.
        rows: how many of the first tensor's second axis make a comparison of the two.

    Raises:
        Exception: the device's memory is full, which is no fault of the path.
    """
    ask(Asked(name, fast, twin, tensors, rows))
    return used(name, fast, tensors)


def ask(asked: Asked) -> None:
    """Shows a path to whoever judges it (`judged_by`)."""
    if _judge is not None:
        _judge(asked)


def used(
    name: str, fast: Callable[..., Tensor | None], tensors: Sequence[Tensor] = ()
) -> Tensor | None:
    """What `attempt` returns, of a path that nobody judges here."""
    if not is_on(name):
        return None
    try:
        return fast(*tensors)
    except Exception as error:
        failed(name, error)
        return None


def failed(name: str, error: Exception) -> None:
    """Switches off a path that has raised an error, all its shapes if it can't be imported; raises
    the error again if it says that the device's memory is full."""
    if out_of_memory(error):
        raise error
    whole = isinstance(error, ImportError)
    switch_off(_path(name) if whole else name, as_line(error))


class Twin(NamedTuple):
    """What takes over from a fast path of this name: a function of the same tensors."""

    name: str
    function: Callable[..., Tensor]

    def gradients(
        self, tensors: Sequence[Tensor], grad: Tensor, bf16: bool, error: Exception
    ) -> tuple[Tensor, ...]:
        """The gradients by the tensors, all computed anew, where the backward pass of the fast path
        has raised this error; it is switched off by that (`failed`)."""
        failed(self.name, error)
        with torch.enable_grad(), torch.autocast(grad.device.type, torch.bfloat16, bf16):
            leaves = [t.detach().requires_grad_() for t in tensors]
            result = self.function(*leaves)
        return torch.autograd.grad(result, leaves, grad.to(result.dtype))


def _path(name: str) -> str:
    """What a path computes, whatever the shape."""
    paths = (CPU, *ON_PROOF, PROJECTION, CAPTURE)
    return next((path for path in paths if name.startswith(path)), name)
