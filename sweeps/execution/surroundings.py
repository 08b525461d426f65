"""Tries what a run needs of a machine: compiler, GPU, Ray, storage, data sets, fonts.

Each function here tries one thing and yields lines of a table; what it raises is a line too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metaphase.core import caches, fast_paths
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.datasets import DATASETS
from metaphase.core.settings import as_line
from metaphase.sweeps.planning.packs import plan, too_large
from metaphase.sweeps.planning.workers import Workers

OK, NOTE, FAILS = "ok", "note", "FAILS"


class Line(NamedTuple):
    """A line of the table: what was tried, OK, NOTE (a run works, but) or FAILS, and details."""

    what: str
    state: str
    details: str


def tried(what: str, check: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """The lines of a check, the last of which is the error that ended it, if one did."""
    try:
        yield from check()
    except ConfigError as error:
        yield Line(what, FAILS, str(error))
    except Exception as error:
        yield Line(what, FAILS, as_line(error))


def software() -> Iterator[Line]:
    """Versions."""
    import ray
    import torch

    from metaphase.core.version import own_version

    yield Line(
        "software",
        OK,
        f"metaphase {own_version()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Ray {ray.__version__}",
    )


def compiler() -> Iterator[Line]:
    """The CPU's kernels: whether they are built, and compute the bits that they compute
    everywhere."""
    from metaphase.core.kernels import cpu
    from metaphase.core.kernels.cpu import check

    if not cpu.available():
        why = fast_paths.switched_off().get(fast_paths.CPU, "")
        slow = "slower, and numbers are this machine's own"
        yield Line("compiler", NOTE, f"{fast_paths.warning(fast_paths.CPU, why)} ({slow})")
    elif check.bits() != check.EXPECTED:
        yield Line("compiler", NOTE, "CPU kernels compute other bits than elsewhere")
    else:
        yield Line("compiler", OK, "CPU kernels are built, and their bits are those of everywhere")


def gpu(
    cells: Sequence[Cell], data_root: str, fresh: bool, run: Callable[..., Any] | None = None
) -> Iterator[Line]:
    """The GPU of this machine, and each fast path on the shapes of these cells.

    Args:
        fresh: whether what was found before doesn't count.
        run: see `sweeps.execution.proving.find_out`; None: a process of its own.
    """
    import torch

    from metaphase.core.devices import training_device, unused_gpus
    from metaphase.sweeps.execution import proving

    if not torch.cuda.is_available():
        why = unused_gpus()
        yield Line("GPU", NOTE if why else OK, f"{why or 'none'}; cells train on the CPU")
        return
    device = training_device("cuda")
    count, of = torch.cuda.device_count(), proving.environment()
    free, whole = torch.cuda.mem_get_info(device)
    yield Line(
        "GPU",
        OK,
        f"{count} x {of['gpu']}, driver {of.get('driver', 'unknown')}, {free / 1e9:.1f} of "
        f"{whole / 1e9:.1f} GB free",
    )
    if free < whole / 2:
        yield Line("GPU memory", NOTE, "others use more than half of it")
    cache = caches.for_triton()
    where = f"{cache}" if cache else "no folder can be written; set TRITON_CACHE_DIR to one"
    yield Line("Triton's cache", OK if cache else NOTE, where)
    found = proving.find_out(cells, of, data_root, run or proving.in_a_process, fresh=fresh)
    yield from fast_path_lines(found.proofs)
    if found.kept:
        yield Line("kernels", OK, "as found out before; --fresh tries them again")


def fast_path_lines(proofs: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """What was found of each fast path."""
    for proof in proofs:
        details = [proof["why"] or "used"]
        if not math.isnan(proof["error"]):
            details.append(f"off by {proof['error']:.1e} (allowed {proof['bound']:.1e})")
        if not math.isnan(proof["fast"]):
            details.append(f"{proof['fast']:.3g} ms, twin {proof['plain']:.3g}")
        good = not proof["why"] or proof["why"].startswith(fast_paths.SLOWER)
        yield Line(proof["name"], OK if good else NOTE, "; ".join(details))


def ray_workers(found: list[Workers]) -> Iterator[Line]:
    """A Ray that is joined or started, as a run does it, and its GPUs. Its workers go to
    `found`."""
    import ray

    from metaphase.sweeps.execution.ray_session import (
        cluster_workers,
        ray_running,
        set_environment,
    )
    from metaphase.sweeps.execution.scratch import scratch_folder
    from metaphase.sweeps.execution.software import check_nodes

    set_environment()
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says of itself isn't the table's
    with scratch_folder() as scratch, ray_running(scratch) as cluster:
        if cluster:
            check_nodes()
        workers, _ = cluster_workers()
        found.append(workers)
        ray.get(ray.remote(num_cpus=1)(platform.node).remote(), timeout=120)
        where = "a cluster" if cluster else "of its own"
        yield Line("Ray", OK, f"{where}, {described(workers)}")


def storage(root: str) -> Iterator[Line]:
    """What a sweep's tree needs: files are made, replaced, listed and removed, and of two drivers
    one gets the lease."""
    from metaphase.sweeps.store.claim import CONDITIONS
    from metaphase.sweeps.store.lease import acquire
    from metaphase.sweeps.store.storage import Storage

    tree = Storage(root, f"metaphase-check-{secrets.token_hex(4)}")
    above = tree.local_path.parents if tree.local_path else ()
    made = [folder for folder in above if not folder.exists()]
    lease = None
    try:
        lease = acquire(tree)
        exclusive = tree.claim.is_exclusive()
        for content in (b"1", b"2"):
            tree.put("folder/file", content, durable=True)
        tree.create("folder/file", b"3")
        names = [info.path for info in tree.infos("folder")]
        if tree.get("folder/file") != b"2" or len(names) != 1:
            yield Line("storage", FAILS, f"{root}: a file isn't what was written last")
            return
        tree.delete("folder/file")
        sure = "one driver at a time" if exclusive else "don't start two commands in one second"
        yield Line(
            "storage",
            OK if exclusive else NOTE,
            f"{root}: writes, replaces, lists, deletes; {sure}",
        )
    finally:
        if lease is not None:
            lease.release()
        if tree.local_path:
            shutil.rmtree(tree.local_path, ignore_errors=True)
            with contextlib.suppress(OSError):  # what isn't empty any more is another's, too
                for folder in made:
                    folder.rmdir()
        else:
            with contextlib.suppress(OSError):
                tree.delete_folder("")
                for name in ("driver", CONDITIONS):  # empty objects, which aren't listed
                    tree.delete(name)


def data_sets(cells: Sequence[Cell], data_root: str) -> Iterator[Line]:
    """The images of these cells: read, or still to be downloaded."""
    from metaphase.core.datasets import images, torchvision_files

    names = {
        name: cell
        for cell in cells
        if cell.dataset in DATASETS
        for name in (cell.dataset, *cell.unseen_datasets)
    }
    read, absent = [], []
    for name, cell in names.items():
        info = DATASETS[name]
        if info.downloaded and not torchvision_files.is_there(name, data_root):
            absent.append(name)
            continue
        if info.load is None:
            for train in (True, False):
                images.load_raw(
                    name, train, data_root, info.image_size, info.channels, cell.num_classes
                )
        read.append(name)
    if read:
        yield Line("data sets", OK, f"{', '.join(read)} can be read")
    if absent:
        which = ", ".join(absent)
        yield Line("data sets", NOTE, f"{which} isn't in {data_root}: a run downloads it")
    if not names:
        yield Line("data sets", OK, "none is needed")


def fonts() -> Iterator[Line]:
    """The font of the figures."""
    import matplotlib as mpl
    from matplotlib import font_manager

    family = mpl.rcParamsDefault["font.sans-serif"][0]
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
    except ValueError:
        yield Line("fonts", NOTE, f"{family} isn't there: figures use another font")
        return
    yield Line("fonts", OK, f"{family}: {path}")


def a_run(cells: Sequence[Cell], workers: Workers) -> Iterator[Line]:
    """What a run of these cells would use."""
    packs = plan(cells, workers)
    yield Line("a run", OK, f"{len(cells)} cells in {len(packs)} packs on {described(workers)}")
    for line in too_large(cells, workers):
        yield Line("a run", NOTE, line)


def described(workers: Workers) -> str:
    """Such as 2 x cpu, 11.3 GB each."""
    return f"{workers.count} x {workers.device}, {workers.memory / 1e9:.1f} GB each"


def table(lines: Iterator[Line]) -> Iterator[tuple[Line, str]]:
    """Each line, and how it is shown."""
    for line in lines:
        yield line, f"{line.what:<22} {line.state:<6} {line.details}"
