"""Inputs A x of whole sequences: the costliest part of a small cell's step at 28 x 28 pixels.

In plain PyTorch A is read from a table or drawn, then multiplied. On a GPU with Triton, A never is
in device memory but as a table (`core.kernels.cuda.projection`). Streams with the same seed, number
of tasks and way of drawing tasks and images need the same inputs, which are computed once.

Axes beside the usual ones: U distinct seeds, G groups of streams that need the same inputs, N tasks
in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.datasets.images import Images
from metaphase.core.kernels.operations import product
from metaphase.core.tasks.projected_images import projections

# Memory for the table of seen tasks' projections, bytes. Past the caches a table is still far
# cheaper than drawing: four bytes are read in less time than a normal is computed.
TABLE_BYTES = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}
_AT_ONCE = 2**22  # entries of projections that are drawn or multiplied at a time: 16 MB


class Source(NamedTuple):
    """Where the matrices A of some groups come from.

    Attributes:
        name: "table" or "drawn".
        matrices: (tasks of some of these groups, the first one's number) -> their A_GxBxXxX.
        for_kernel: what `core.kernels.cuda.projection.project` is told of it.
        group_G: which groups these are; None: all there are.
    """

    name: str
    matrices: Callable[[Tensor, int], Tensor]
    for_kernel: dict[str, Tensor]
    group_G: Tensor | None = None


def drawn(seed_G: Tensor, size: int, group_G: Tensor | None = None) -> Source:
    """Matrices that are drawn for groups of these seeds."""

    def matrices(task_GxB: Tensor, first: int) -> Tensor:
        seed_Gx1 = seed_G[first : first + len(task_GxB), None]
        return projections(seed_Gx1, task_GxB, size)

    return Source("drawn", matrices, {"seed_G": seed_G}, group_G)


class ProjectedInputs:
    """Computes the inputs of a pack's sequences.

    Args:
        seed_S, num_tasks_S: int64, of each stream.
        drawn_S: how each stream draws its tasks and images, whatever that is called.
        size: X, numbers in an image.
        precision: of the products, `core.cell.Precision`.
    """

    def __init__(
        self,
        seed_S: Tensor,
        num_tasks_S: Tensor,
        drawn_S: Sequence[Hashable],
        size: int,
        precision: str,
    ) -> None:
        self.size, self.precision = size, precision
        device = seed_S.device
        self.kernel = projection_kernel(device)
        half = self.kernel is not None and precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32
        keys = list(zip(seed_S.tolist(), num_tasks_S.tolist(), drawn_S, strict=True))
        groups = list(dict.fromkeys(keys))
        self.shared = len(groups) < len(keys)  # some streams need the same inputs
        self.group_S = torch.tensor([groups.index(key) for key in keys], device=device)
        # The first stream of each group, and of each seed.
        self.first_G = torch.tensor([keys.index(group) for group in groups], device=device)
        self.seeds_U, self.row_S = seed_S.unique(return_inverse=True)
        seeds = seed_S.tolist()
        self.first_U = torch.tensor([seeds.index(s) for s in self.seeds_U.tolist()], device=device)
        self.seen_tasks = SeenTasks(
            seed_S[self.first_G],
            num_tasks_S[self.first_G],
            size,
            TABLE_BYTES[device.type],
            self.dtype,
        )
        self._tables: dict[int, Tensor] = {}  # images as the kernel reads them, by their address

    def of_seen_tasks(self, images: Images, image_SxBxT: Tensor, task_SxB: Tensor) -> Tensor:
        """x_SxBxTxX of sequences of seen tasks (int64 numbers of images and tasks)."""
        if not self.shared:
            return self._of_groups(images, image_SxBxT, task_SxB)
        x_GxBxTxX = self._of_groups(images, image_SxBxT[self.first_G], task_SxB[self.first_G])
        return x_GxBxTxX[self.group_S]

    def of_unseen_tasks(self, images: Images, image_SxBxT: Tensor, task_B: Tensor) -> Tensor:
        """x_SxBxTxX of sequences of tasks that depend on the seed alone."""
        image_UxBxT = image_SxBxT[self.first_U]
        task_UxB = task_B.expand(len(self.seeds_U), -1)

        source = drawn(self.seeds_U, self.size)
        x_UxBxTxX = self._inputs(images, image_UxBxT, task_UxB, source)
        return x_UxBxTxX[self.row_S]

    def _of_groups(self, images: Images, image_GxBxT: Tensor, task_GxB: Tensor) -> Tensor:
        if self.kernel is None:
            return plain_inputs(images, image_GxBxT, task_GxB, self.seen_tasks.projections)
        sources = self.seen_tasks.sources
        if len(sources) == 1:
            return self._inputs(images, image_GxBxT, task_GxB, sources[0])
        x_GxBxTxX = torch.empty(
            *image_GxBxT.shape, self.size, dtype=self.dtype, device=task_GxB.device
        )
        for source in sources:
            some = source.group_G
            x_GxBxTxX[some] = self._inputs(images, image_GxBxT[some], task_GxB[some], source)
        return x_GxBxTxX

    def _inputs(
        self, images: Images, image_GxBxT: Tensor, task_GxB: Tensor, source: Source
    ) -> Tensor:
        """What the kernel computes of matrices of a source, or, where there is none or it fails,
        what `plain_inputs` does, of the same type."""

        def plain() -> Tensor:
            return plain_inputs(images, image_GxBxT, task_GxB, source.matrices).to(self.dtype)

        def fast() -> Tensor:
            return self._run(images, image_GxBxT, task_GxB, source.for_kernel)

        if self.kernel is None:
            return plain()
        path = projection_path(self.size, image_GxBxT.shape[2], source.name, self.precision)
        x_GxBxTxX = fast_paths.attempt(path, fast, plain)
        return plain() if x_GxBxTxX is None else x_GxBxTxX

    def _run(
        self, images: Images, image_GxBxT: Tensor, task_GxB: Tensor, source: dict[str, Tensor]
    ) -> Tensor:
        assert self.kernel is not None
        address = images.x_IxX.data_ptr()
        if address not in self._tables:
            self._tables[address] = self.kernel.image_table(images.x_IxX, self.precision)
        x_GxBxTxX: Tensor = self.kernel.project(
            self._tables[address], image_GxBxT, task_GxB,
            size=self.size, precision=self.precision, dtype=self.dtype, **source,
        )  # fmt: skip
        return x_GxBxTxX


def projection_path(X: int, T: int, source: str, precision: str) -> str:
    """The name (`core.fast_paths`) of fused projections on a shape, of a kind of `Source`."""
    return fast_paths.named(fast_paths.PROJECTION, precision, X=X, T=T, source=source)


def projection_kernel(device: torch.device) -> ModuleType | None:
    """`core.kernels.cuda.projection` where it can run, else None."""
    if device.type == "cuda" and fast_paths.is_on(fast_paths.PROJECTION):
        try:
            from metaphase.core.kernels.cuda import projection

            return projection if projection.supports(device) else None
        except Exception as error:  # no Triton, or one that can't be imported
            fast_paths.failed(fast_paths.PROJECTION, error)
    return None


def plain_inputs(
    images: Images,
    image_GxBxT: Tensor,
    task_GxB: Tensor,
    matrices: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """x_GxBxTxX: A x, each sequence with its own A. The twin of `core.kernels.cuda.projection`.

    Args:
        matrices: (tasks of some groups, the first one's number) -> their A_GxBxXxX.
    """
    G, B, T = image_GxBxT.shape
    size = images.x_IxX.shape[1]
    x_GxBxTxX = torch.empty(G, B, T, size, device=task_GxB.device)
    count = max(1, _AT_ONCE // (B * size**2))  # groups at a time
    for first in range(0, G, count):
        some = slice(first, first + count)
        a_GBxXxX = matrices(task_GxB[some], first).flatten(0, 1).float()
        raw_GBxTxX = images.x_IxX[image_GxBxT[some].reshape(-1)].view(-1, T, size)
        x_GxBxTxX[some] = product(raw_GBxTxX, a_GBxXxX.mT).view(-1, B, T, size)
    return x_GxBxTxX


def table_length(num_tasks: Iterable[int], seeds: int, room: int) -> int:
    """Tasks of each seed in the table of `SeenTasks`: as many as the largest of these numbers of
    tasks that fits, of `seeds` seeds, where `room` matrices have room. 0: none does."""
    return max((n for n in num_tasks if seeds * n <= room), default=0)


class SeenTasks:
    """Projections of the seen tasks of a pack, from a table where all of them fit in memory.

    Tasks are nested, so the groups of one seed share a table as long as the largest number of
    tasks among them that fits. Numbers are the same with and without the table.

    Attributes:
        sources: where the matrices come from: the table, drawing, or the one for some groups and
            the other for the others.

    Args:
        seed_G, num_tasks_G: int64, of each group.
        size: X.
        table_bytes: memory the table may take.
        dtype: of the table.
    """

    def __init__(
        self,
        seed_G: Tensor,
        num_tasks_G: Tensor,
        size: int,
        table_bytes: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed_G, self.size, self.dtype = seed_G, size, dtype
        self.seeds_U, self.row_G = seed_G.unique(return_inverse=True)
        room = table_bytes // (size * size * dtype.itemsize)
        self.length = table_length(num_tasks_G.tolist(), len(self.seeds_U), room)
        tabled_G = num_tasks_G <= self.length
        self._is_tabled: list[bool] = tabled_G.tolist()
        self.table_UxNxXxX = self._fill_table()
        self.sources = self._sources(tabled_G)

    def _sources(self, tabled_G: Tensor) -> list[Source]:
        """The table for the groups whose tasks are in it, if any, and drawing for the others."""
        tabled, others = tabled_G.nonzero()[:, 0], (~tabled_G).nonzero()[:, 0]
        found = []
        if len(tabled):
            table_UxNxXxX, row_G = self.table_UxNxXxX, self.row_G[tabled]

            def read(task_GxB: Tensor, first: int) -> Tensor:
                return table_UxNxXxX[row_G[first : first + len(task_GxB), None], task_GxB]

            told = {"table_UxNxXxX": table_UxNxXxX, "row_G": row_G}
            found.append(Source("table", read, told, tabled))
        if len(others):
            found.append(drawn(self.seed_G[others], self.size, others))
        return found

    def _fill_table(self) -> Tensor:
        device, size = self.seed_G.device, self.size
        table_UxNxXxX = torch.empty(
            len(self.seeds_U), self.length, size, size, dtype=self.dtype, device=device
        )
        task_N = torch.arange(self.length, device=device)
        count = max(1, _AT_ONCE // size**2)
        for seed, table_NxXxX in zip(self.seeds_U, table_UxNxXxX, strict=True):
            for task, part in zip(task_N.split(count), table_NxXxX.split(count), strict=True):
                part.copy_(projections(seed, task, size))
        return table_UxNxXxX

    def projections(self, task_GxB: Tensor, first: int = 0) -> Tensor:
        """A_GxBxXxX of the tasks of some groups, those from number `first` on."""
        last = first + len(task_GxB)
        if all(self._is_tabled[first:last]):
            return self.table_UxNxXxX[self.row_G[first:last, None], task_GxB]
        if not any(self._is_tabled[first:last]):
            return projections(self.seed_G[first:last, None], task_GxB, self.size)
        parts = task_GxB.split(1)
        return torch.cat([self.projections(part, g) for g, part in enumerate(parts, start=first)])
