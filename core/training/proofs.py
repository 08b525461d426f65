"""Whether fast paths compute what their twins do, and faster, on the shapes of cells at hand, where
this runs.

Each kernel is compared with its twin in float64, on the numbers of a cell's first step, and timed
beside the twin in the cell's own precision, forward and backward. The captured step is compared
with the same steps launched one by one, and its evaluation with theirs. All that is done with
several replicas, so that what mixes them is seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.cell import Cell, ConfigError, grouped, stack_key
from metaphase.core.devices import current, out_of_memory
from metaphase.core.fast_paths import Asked
from metaphase.core.settings import as_line
from metaphase.core.tasks.sequences import STEPS_PER_DRAW
from metaphase.core.training import cost
from metaphase.core.training.captured import CaptureFailed
from metaphase.core.training.trainer import PackTrainer

# How far a result or gradient may be off, ||a - b|| / ||b|| against float64, beside what the twin
# is off in the same precision: where a ReLU's input is near 0, rounding decides whether a gradient
# flows, and the layer norm of two numbers multiplies what is lost.
BOUNDS = {"bf16": 1e-2, "tf32": 5e-3, "fp32": 5e-5}
TWIN_SHARE = 1.5
REPLICAS = 8  # that are trained, or fewer, where the device's memory is too small for them
STEPS = 4  # that are trained captured and one by one
# Of what these steps change of the weights, and of the losses after them: sums of another order.
CAPTURE_BOUND = 2e-2
TIMES = 5  # that each way is timed; the median counts


@dataclass(frozen=True)
class Proof:
    """What was found of a path on a shape.

    Attributes:
        name: the path's (`core.fast_paths`).
        why: why it isn't to be used; empty: it is right and the faster way.
        error, bound: how far it is off, and may be; NaN: it wasn't compared.
        fast, plain: milliseconds that it and its twin take; NaN: they weren't timed.
    """

    name: str
    why: str = ""
    error: float = math.nan
    bound: float = math.nan
    fast: float = math.nan
    plain: float = math.nan


@dataclass
class Findings:
    """What was found out.

    Attributes:
        proofs: of each path and shape.
        poisoned: whether the process can't compute any more, and what isn't among the proofs is to
            be found out in another one.
        error: one line, if the cells can't be trained by plain PyTorch either.
    """

    proofs: list[Proof]
    poisoned: bool = False
    error: str = ""

    @property
    def verdicts(self) -> dict[str, str]:
        """As `core.fast_paths.adopt` takes them."""
        return {proof.name: proof.why for proof in self.proofs}


def kind(cell: Cell) -> tuple:
    """Equal for cells that take the same fast paths in packs of their own."""
    return stack_key(cell), cell.weight_decay > 0, cost.reads_table([cell])


def one_of_each(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that between them take all fast paths that these may take: of each shape, decaying or
    not, the one with the fewest tasks. Their projections are in a table if any's are; and those of
    unseen tasks are drawn all the same."""
    groups = grouped(cells, lambda cell: kind(cell)[:2])
    return [min(members, key=lambda cell: cell.num_tasks) for members in groups.values()]


def prove(
    cells: Sequence[Cell],
    device: torch.device,
    data_root: str | Path,
    say: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Tries the fast paths that these cells take; `say` gets a line about what is next. Paths that
    are off (`core.fast_paths`) aren't tried."""
    found = Findings([])
    with current(device):
        _prove(cells, device, data_root, say, found)
    for name, why in fast_paths.failures().items():  # in what has run beside the comparisons, too
        if name != fast_paths.CPU and not found.verdicts.get(name):
            found.proofs = [proof for proof in found.proofs if proof.name != name]
            found.proofs.append(Proof(name, why))
    return found


def _prove(
    cells: Sequence[Cell],
    device: torch.device,
    data_root: str | Path,
    say: Callable[[str], None],
    found: Findings,
) -> None:
    trained = []
    for cell in one_of_each(cells):
        say(f"kernels: {_described(cell)}")
        pack = _prove_kernels(cell, device, data_root, found)
        if found.error:
            return
        if pack:
            trained.append(pack)
    fast_paths.adopt(found.verdicts)
    for pack in trained:
        if not fast_paths.is_on(fast_paths.CAPTURE):
            return
        say(f"captured steps: {_described(pack[0])}")
        if not _prove_capture(pack, device, data_root, found):
            return


def _described(cell: Cell) -> str:
    return f"{cell.architecture}, width {cell.model_size}, {cell.precision}"


def _replicas(cell: Cell, count: int) -> list[Cell]:
    return [replace(cell, seed=seed) for seed in range(count)]


def _as_many_as_fit(cell: Cell, device: torch.device) -> int:
    """How many replicas are tried first: what is compared stands in memory twice."""
    count = REPLICAS
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        while count > 1 and 2 * cost.pack_bytes(_replicas(cell, count), "cuda") > free:
            count //= 2
    return count


def _prove_kernels(
    cell: Cell, device: torch.device, data_root: str | Path, found: Findings
) -> list[Cell]:
    """Compares what the first step and evaluation of a cell's replicas ask for. Returns those that
    could be trained, if any: what doesn't fit into the device, or fails without the device, is the
    cell's own affair, which its training will tell."""
    known = {proof.name for proof in found.proofs}
    count = _as_many_as_fit(cell, device)

    def judge(asked: Asked) -> None:
        if asked.name in known or asked.name in fast_paths.switched_off():
            return
        proof = _compare(asked, device, last=count == 1)
        known.add(asked.name)
        if proof is not None:
            found.proofs.append(proof)

    while True:
        pack = _replicas(cell, count)
        try:
            with fast_paths.judged_by(judge):
                _first_step(pack, device, data_root)
                if cost.reads_table([cell]) and not cost.reads_table(pack):  # of so many seeds
                    _first_step([cell], device, data_root)
            return pack
        except ConfigError as error:
            found.error = str(error)
            return []
        except Exception as error:
            if not out_of_memory(error):
                if _of_device(error):
                    found.poisoned = True
                    found.error = f"{_described(cell)}: {as_line(error)}"
                return []
            if count == 1:
                return []
        count //= 2


def _first_step(pack: Sequence[Cell], device: torch.device, data_root: str | Path) -> None:
    trainer = PackTrainer(pack, device=device, data_root=data_root)
    trainer._repeated_step._captures = False
    trainer.train(1)
    trainer._evaluate()
    _wait(device)


def _of_device(error: Exception) -> bool:
    """Whether an error is one of the device, after which it may compute nothing."""
    told = any(word in str(error) for word in ("CUDA", "HIP"))
    return told or isinstance(error, getattr(torch, "AcceleratorError", ()))


def _compare(asked: Asked, device: torch.device, last: bool) -> Proof | None:
    """A path's proof; None if it doesn't serve this shape.

    Args:
        last: whether no smaller pack is tried if this one fills the memory.

    Raises:
        Exception: it does.
    """
    name, precision = asked.name, asked.name.rpartition(" ")[2]
    try:
        few = _leaves(asked.tensors, asked.rows)
        ours = _both(asked.fast, few)
        if ours is None:
            return None
        with torch.autocast(device.type, enabled=False):
            exact = _both(asked.twin, [t.detach().double().requires_grad_() for t in few])
        theirs = _both(asked.twin, _leaves(asked.tensors, asked.rows))
        assert exact is not None
        assert theirs is not None
        if name in fast_paths.switched_off():  # its twin has computed the gradients
            return Proof(name, fast_paths.switched_off()[name])
        off = _worst(map(_off, ours, exact))
        # What has no tensors is compared with the twin as it is.
        own = _worst(map(_off, theirs, exact)) if few else 0.0
        bound = BOUNDS[precision] + TWIN_SHARE * own
        if not off <= bound:  # it may be NaN
            return Proof(name, f"it is off by {off:.1e}, {bound:.1e} being allowed", off, bound)
        whole = _leaves(asked.tensors, 0)
        fast, plain = (
            milliseconds(partial(_both, way, whole), device) for way in (asked.fast, asked.twin)
        )
    except Exception as error:
        if out_of_memory(error) and not last:
            raise
        return Proof(name, as_line(error))
    why = "" if fast < plain else f"{fast_paths.SLOWER}: {fast:.3g} ms against {plain:.3g}"
    return Proof(name, why, off, bound, fast, plain)


def _leaves(tensors: Sequence[Tensor], rows: int) -> list[Tensor]:
    """The tensors, those of more replicas and rows than needed cut, with gradients of their own."""
    if rows:
        first, *rest = tensors
        tensors = [first[:2, :rows], *(t[:2] for t in rest)]
    return [t.detach().clone().requires_grad_() for t in tensors]


def _both(function: Callable[..., Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The result, and the gradients by the tensors where there are some; None: there is none."""
    with torch.enable_grad():
        result = function(*tensors)
    if result is None or not tensors:
        return None if result is None else [result]
    wave = torch.linspace(-1.0, 1.0, result.shape[-1], device=result.device, dtype=result.dtype)
    gradient = wave.expand_as(result) + torch.sign(result.detach())
    return [result, *torch.autograd.grad(result, tensors, gradient)]


def _off(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def _worst(errors: Iterable[float]) -> float:
    """The largest; NaN if one is."""
    return float(torch.tensor(list(errors), device="cpu").max())


def _prove_capture(
    pack: Sequence[Cell], device: torch.device, data_root: str | Path, found: Findings
) -> bool:
    """Compares captured steps with others. Returns whether to go on."""
    name = fast_paths.CAPTURE
    try:
        proof = _captured_beside(pack, device, data_root)
    except CaptureFailed as failed:
        found.proofs.append(Proof(name, str(failed)))
        found.poisoned = True
        return False
    except Exception as error:
        if not out_of_memory(error):
            found.proofs.append(Proof(name, as_line(error)))
            found.poisoned = True
            return False
        proof = None  # of two trainers; one may fit
    if proof is None:
        fewer = pack[: len(pack) // 2]
        return not fewer or _prove_capture(fewer, device, data_root, found)
    earlier = next((p for p in found.proofs if p.name == name), None)
    if earlier is not None:  # of another shape: what is off for one is off for all
        found.proofs.remove(earlier)
        worst = earlier if earlier.why else proof
        proof = replace(
            worst,
            error=max(earlier.error, proof.error),
            fast=earlier.fast + proof.fast,
            plain=earlier.plain + proof.plain,
        )
    found.proofs.append(proof)
    return True


def _captured_beside(pack: Sequence[Cell], device: torch.device, data_root: str | Path) -> Proof:
    """The proof of captured steps, of a trainer that launches them one by one and another."""
    name = fast_paths.CAPTURE
    one_by_one = PackTrainer(pack, device=device, data_root=data_root)
    one_by_one._repeated_step._captures = False
    captured = PackTrainer(pack, device=device, data_root=data_root)
    before = captured.stacks[0].theta_RxP.clone()
    for trainer in (one_by_one, captured):
        trainer.train(STEPS)
        trainer._evaluate()
    ours, theirs = (t.stacks[0].theta_RxP - before for t in (captured, one_by_one))
    losses = [torch.cat([of_split.loss_R for of_split in t.metrics.values()])
              for t in (captured, one_by_one)]  # fmt: skip
    error = _worst([*map(_off, ours, theirs), _off(*losses)])
    if not error <= CAPTURE_BOUND:
        why = f"they are off by {error:.1e}, {CAPTURE_BOUND:.1e} being allowed"
        return Proof(name, why, error, CAPTURE_BOUND)
    fast, plain = (
        milliseconds(partial(t.train, STEPS_PER_DRAW), device) / STEPS_PER_DRAW
        for t in (captured, one_by_one)
    )
    slower = f"{fast_paths.SLOWER}: {fast:.3g} ms a step against {plain:.3g}"
    return Proof(name, "" if fast < plain else slower, error, CAPTURE_BOUND, fast, plain)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of what some calls take, after one that isn't counted."""
    taken = []
    for number in range(1 + TIMES):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if number:
            taken.append(1e3 * (time.perf_counter() - start))
    return sorted(taken)[TIMES // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
