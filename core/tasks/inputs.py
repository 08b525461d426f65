"""Inputs A x of whole sequences, the costliest part of a small cell's step at 28 x 28 pixels.

In plain PyTorch A is gathered or drawn, then multiplied. On a GPU with Triton, A never is in device
memory but as a table (`core.kernels.cuda.projection`). Cells with the same seed and number of tasks
need the same inputs: these are computed once."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from metaphase.core.datasets.images import Images
from metaphase.core.kernels.operations import product
from metaphase.core.tasks.projected_images import TABLE_BYTES, SeenTasks, projections


class Inputs:
    """Computes the inputs of a pack's sequences.

    Args:
        seed_R, num_tasks_R: int64, a replica each.
        size: Nx, numbers in an image.
        precision: of the products, `core.cell.Precision`.
    """

    def __init__(self, seed_R: Tensor, num_tasks_R: Tensor, size: int, precision: str) -> None:
        self.size, self.precision = size, precision
        device = seed_R.device
        self.kernel = projection_kernel(device)
        half = self.kernel is not None and precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32
        # The distinct (seed, number of tasks), in the order of the first replicas that have them.
        pairs = list(zip(seed_R.tolist(), num_tasks_R.tolist(), strict=True))
        streams = list(dict.fromkeys(pairs))
        self.shared = len(streams) < len(pairs)
        self.stream_R = torch.tensor([streams.index(pair) for pair in pairs], device=device)
        self.first_G = torch.tensor([pairs.index(stream) for stream in streams], device=device)
        seed_G, num_tasks_G = seed_R[self.first_G], num_tasks_R[self.first_G]
        room = TABLE_BYTES[device.type]
        self.seen_tasks = SeenTasks(seed_G, num_tasks_G, size, room, self.dtype)
        self.seeds_U, self.row_R = seed_R.unique(return_inverse=True)
        seeds = seed_R.tolist()
        self.first_U = torch.tensor([seeds.index(s) for s in self.seeds_U.tolist()], device=device)
        self._tables: dict[int, Tensor] = {}  # images as the kernel reads them, by their address

    def of_seen_tasks(self, images: Images, image_RxBxT: Tensor, task_RxB: Tensor) -> Tensor:
        """x_RxBxTxX of sequences of seen tasks (int64 numbers of images and tasks)."""
        if not self.shared:
            return self._of_streams(images, image_RxBxT, task_RxB)
        first = self._of_streams(images, image_RxBxT[self.first_G], task_RxB[self.first_G])
        return first[self.stream_R]

    def of_unseen_tasks(self, images: Images, image_RxBxT: Tensor, task_B: Tensor) -> Tensor:
        """x_RxBxTxX of sequences of tasks that depend on the seed alone."""
        image_UxBxT = image_RxBxT[self.first_U]
        task_UxB = task_B.expand(len(self.seeds_U), -1)
        if self.kernel is None:

            def drawn(task: Tensor, first: int) -> Tensor:
                return projections(self.seeds_U[first : first + len(task), None], task, self.size)

            x_UxBxTxX = _plain(images, image_UxBxT, task_UxB, drawn)
        else:
            x_UxBxTxX = self._run(images, image_UxBxT, task_UxB, seed_G=self.seeds_U)
        return x_UxBxTxX[self.row_R]

    def _of_streams(self, images: Images, image_GxBxT: Tensor, task_GxB: Tensor) -> Tensor:
        tasks = self.seen_tasks
        if self.kernel is None:
            return _plain(images, image_GxBxT, task_GxB, tasks.projections)
        if tasks.all_tabled:
            return self._run(
                images, image_GxBxT, task_GxB, table_UxMxXxX=tasks.table_UxMxXxX, row_G=tasks.row_R
            )
        if tasks.none_tabled:
            return self._run(images, image_GxBxT, task_GxB, seed_G=tasks.seed_R)
        x = torch.empty(*image_GxBxT.shape, self.size, dtype=self.dtype, device=task_GxB.device)
        for chosen, source in (
            (tasks.tabled, {"table_UxMxXxX": tasks.table_UxMxXxX, "row_G": tasks.row_R}),
            (tasks.drawn, {"seed_G": tasks.seed_R}),
        ):
            picked = {k: v if k.startswith("table") else v[chosen] for k, v in source.items()}
            x[chosen] = self._run(images, image_GxBxT[chosen], task_GxB[chosen], **picked)
        return x

    def _run(
        self, images: Images, image_GxBxT: Tensor, task_GxB: Tensor, **source: Tensor
    ) -> Tensor:
        assert self.kernel is not None
        address = images.x_NxX.data_ptr()
        if address not in self._tables:
            self._tables[address] = self.kernel.image_table(images.x_NxX, self.precision)
        return self.kernel.project(
            self._tables[address], image_GxBxT, task_GxB,
            size=self.size, precision=self.precision, dtype=self.dtype, **source,
        )  # fmt: skip


def projection_kernel(device: torch.device) -> ModuleType | None:
    """`core.kernels.cuda.projection` where it can run, else None."""
    if device.type != "cuda":
        return None
    try:
        from metaphase.core.kernels.cuda import projection
    except ImportError:  # no Triton
        return None
    return projection


def _plain(
    images: Images,
    image_GxBxT: Tensor,
    task_GxB: Tensor,
    matrices: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """The definition: A x, each sequence with its own A.

    Args:
        matrices: (tasks of some streams, the first one's number) -> their A_GxBxXxX.
    """
    G, B, T = image_GxBxT.shape
    size = images.x_NxX.shape[1]
    x_GxBxTxX = torch.empty(G, B, T, size, device=task_GxB.device)
    # Of a few streams at a time: 16 MB of projections, at least one stream's.
    count = max(1, 2**22 // (B * size**2))
    for first in range(0, G, count):
        some = slice(first, first + count)
        a_GBxXxX = matrices(task_GxB[some], first).flatten(0, 1)
        raw_GBxTxX = images.x_NxX[image_GxBxT[some].reshape(-1)].view(-1, T, size)
        x_GxBxTxX[some] = product(raw_GBxTxX, a_GBxXxX.mT).view(-1, B, T, size)
    return x_GxBxTxX
