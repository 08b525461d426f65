"""Runs the same step again and again: on CUDA as one captured graph, elsewhere as it is.

A training step is hundreds of small kernels, each launched in a few microseconds of host time; at
small widths that, not the arithmetic, is what a step costs. A CUDA graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.devices import current, out_of_memory
from metaphase.core.settings import as_line

# Draws that may be launched ahead of the device: enough to keep it busy, few enough that a request
# between two draws, to stop or for a checkpoint, is answered soon.
_AHEAD = 1
_WARM_UP = 3  # steps before capture, as PyTorch's notes on CUDA graphs ask for

Draw = tuple[Tensor, ...]  # a NamedTuple of `core.tasks.sequences.Sequences.draw_training`
Step = Callable[[Draw, Tensor, Tensor], None]


class CaptureFailed(RuntimeError):
    """A step couldn't be captured. PyTorch's allocator may take this process to be capturing still:
    nothing more is to be computed in it.

    Attributes:
        restored: whether the buffers hold what they held before.
        full: whether it failed because the device's memory is full; fewer replicas may fit.
    """

    def __init__(self, error: Exception, restored: bool, full: bool = False) -> None:
        super().__init__(as_line(error))
        self.restored, self.full = restored, full


class RepeatedStep:
    """Runs `step(draw, step_J, j)` for j = 0, 1, ... of the J steps that a draw covers.

    Every call is given the step, always the same one. It isn't kept, because the object that it is
    a method of mostly owns this one: the two would form a cycle, whose device memory waits for the
    garbage collector.

    Nothing is read back to the host. Where capturing is switched off (`core.fast_paths`), the steps
    are launched one by one, which is slower and gives the same numbers.

    Args:
        draw: step_J (int64, always as many steps) -> what their batches consist of.
        buffers: all tensors that the step changes, in place; j is an int64 tensor of shape (1,).
    """

    def __init__(self, draw: Callable[[Tensor], Draw], buffers: Sequence[Tensor]) -> None:
        self._draw, self._buffers = draw, buffers
        self._device = buffers[0].device
        self._captures = self._device.type == "cuda" and fast_paths.is_on(fast_paths.CAPTURE)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._launched: list[torch.cuda.Event] = []

    def __call__(self, step: Step, step_J: Tensor, count: int) -> None:
        """Runs the steps step_J[0] ... step_J[count - 1].

        Raises:
            CaptureFailed: the step can't be captured, and this process is to be left.
        """
        with current(self._device):
            self._run(step, step_J, count)

    def _run(self, step: Step, step_J: Tensor, count: int) -> None:
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
        aside = _aside(self._j.device)
        try:
            self._warm_up(one, aside)
        finally:
            self._restore(before)  # also after what a warm-up that failed has launched
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=aside):
                one()
        except Exception as error:
            restored = True
            try:
                self._restore(before)
            except RuntimeError:
                restored = False
            if out_of_memory(error) and restored:  # the capture itself has ended as it should
                raise
            raise CaptureFailed(error, restored, full=_began_full(error)) from error
        self._restore(before)
        self._graph = graph

    def _warm_up(self, one: Callable[[], None], aside: torch.cuda.Stream) -> None:
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                one()
        torch.cuda.current_stream().wait_stream(aside)

    def _restore(self, before: Sequence[Tensor]) -> None:
        torch.cuda.synchronize()
        for buffer, value in zip(self._buffers, before, strict=True):
            buffer.copy_(value)


def _began_full(error: BaseException | None) -> bool:
    """Whether the device's memory being full began it: ending a capture that something has broken
    raises an error of its own, in the handling of which that one stands."""
    return error is not None and (out_of_memory(error) or _began_full(error.__context__))


@lru_cache(maxsize=8)
def _aside(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures: cuBLAS keeps a workspace for every new one."""
    return torch.cuda.Stream(device)
