"""Runs the same step again and again: on CUDA as one captured graph, elsewhere as it is.

A training step is hundreds of small kernels, each launched in a few microseconds of host time; at
small widths that, not the arithmetic, is what a step costs. A CUDA graph launches them all at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Draws that may be launched ahead of the device: enough to keep it busy, few enough that a request
# between two draws, to stop or for a checkpoint, is answered soon.
_AHEAD = 1
_WARM_UP = 3  # steps before capture, as PyTorch's notes on CUDA graphs ask for

Draw = tuple[Tensor, ...]  # a NamedTuple of `core.tasks.sequences.Sequences.draw_training`
Step = Callable[[Draw, Tensor, Tensor], None]


class RepeatedStep:
    """Runs `step(draw, step_J, j)` for j = 0, 1, ... of the J steps that a draw covers.

    Every call is given the step, always the same one. It isn't kept, because the object that it is
    a method of mostly owns this one: the two would form a cycle, whose device memory waits for the
    garbage collector.

    Nothing is read back to the host. If the graph can't be captured, that is logged and the steps
    are launched one by one, which is slower and gives the same numbers.

    Args:
        draw: step_J (int64, always as many steps) -> what their batches consist of.
        buffers: all tensors that the step changes, in place; j is an int64 tensor of shape (1,).
    """

    def __init__(self, draw: Callable[[Tensor], Draw], buffers: Sequence[Tensor]) -> None:
        self._draw, self._buffers = draw, buffers
        self._captures = buffers[0].device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._launched: list[torch.cuda.Event] = []

    def __call__(self, step: Step, step_J: Tensor, count: int) -> None:
        """Runs the steps step_J[0] ... step_J[count - 1]."""
        draw = self._draw(step_J)
        if self._captures and self._graph is None:
            self._capture(step, draw, step_J)
        if self._graph is None:
            for j in torch.arange(count, device=step_J.device).split(1):
                step(draw, step_J, j)
            return
        for static, new in zip(self._inputs, (*draw, step_J), strict=True):
            static.copy_(new)
        self._j.zero_()
        for _ in range(count):
            self._graph.replay()
        self._launched.append(torch.cuda.current_stream().record_event())
        if len(self._launched) > _AHEAD:
            self._launched.pop(0).synchronize()

    def _capture(self, step: Step, draw: Draw, step_J: Tensor) -> None:
        self._inputs = [t.clone() for t in (*draw, step_J)]
        *of_draw, static_step_J = self._inputs
        static_draw = type(draw)(*of_draw)
        self._j = torch.zeros(1, dtype=torch.int64, device=step_J.device)

        def one() -> None:
            step(static_draw, static_step_J, self._j)
            self._j.add_(1)

        before = [buffer.clone() for buffer in self._buffers]
        try:
            aside = _aside(self._j.device)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    one()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                one()
            self._graph = graph
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._captures = False
            logger.warning("steps aren't captured as a CUDA graph: %s", error)
        finally:
            torch.cuda.synchronize()  # also what a warm-up that failed has launched
            for buffer, value in zip(self._buffers, before, strict=True):
                buffer.copy_(value)


_FULL = (  # cuBLAS makes its handles and workspaces when first used, and says no more than that
    *("out of memory", "ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"),
    "can't allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full. It may come from PyTorch's allocator,
    from CUDA itself, or from a library that asks CUDA for a workspace."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL)
    )


@lru_cache(maxsize=8)
def _aside(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures: cuBLAS keeps a workspace for every new one."""
    return torch.cuda.Stream(device)
