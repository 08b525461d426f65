"""Finds out, before packs are planned for GPUs, which fast paths are right and faster there.

What tries them (`core.training.proofs`) may end up unfit for anything else, so it runs in processes
of their own. What was found is kept in the user's cache, by all that it hangs on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from metaphase.core import caches, fast_paths, plugins
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.devices import says_full
from metaphase.sweeps.execution.software import installed

SECONDS = 900.0  # that a process may take: kernels are compiled
TRIES = 4  # processes, each of which may be poisoned by what it tries
ALL = (*fast_paths.ON_PROOF, fast_paths.PROJECTION, fast_paths.CAPTURE)


@dataclass(frozen=True)
class Task:
    """What a process is to try.

    Attributes:
        cells: as `core.training.proofs.one_of_each` has them.
        plug_ins: those of the user's that they use, with their code.
        data_root: folder of the base data sets.
        device: name of the torch device.
        verdicts: what is known already, {name: why it is off}.
    """

    cells: Sequence[Cell]
    plug_ins: Sequence[plugins.PlugIn]
    data_root: str
    device: str = "cuda"
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What was found out on a kind of GPU.

    Attributes:
        environment: all that it hangs on, as `environment` says it.
        proofs: the fields of `core.training.proofs.Proof`, of each path and shape.
        verdicts: as `core.fast_paths.adopt` takes them.
        kept: whether it was known from before.
    """

    environment: dict[str, str]
    proofs: list[dict[str, Any]]
    verdicts: dict[str, str]
    kept: bool = False

    @property
    def failures(self) -> dict[str, str]:
        """{name: why} of what isn't used, but for what is right and slower."""
        slower = fast_paths.SLOWER
        return {k: why for k, why in self.verdicts.items() if why and not why.startswith(slower)}


def environment(device_name: str = "cuda") -> dict[str, str]:
    """The GPU, its driver, and the versions that compute on it."""
    import torch

    device = torch.device(device_name)
    found = {"gpu": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = f"{properties.name}, sm_{properties.major}{properties.minor}"
        with contextlib.suppress(AttributeError, RuntimeError):
            found["driver"] = str(getattr(torch._C, "_cuda_getDriverVersion")())  # noqa: B009
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["triton"] = metadata.version("triton")
    return found | {"metaphase": installed().get("metaphase", "")}


def carry_out(task: Task) -> dict[str, Any]:
    """Tries a task's cells, in this process: the fields of `core.training.proofs.Findings`.

    Raises:
        ConfigError: the device can't be used.
    """
    from metaphase.core.devices import training_device
    from metaphase.core.training.proofs import prove

    plugins.load_again(task.plug_ins)
    fast_paths.adopt(task.verdicts)
    return asdict(prove(task.cells, training_device(task.device), task.data_root))


def find_out(
    cells: Sequence[Cell],
    of: Mapping[str, str],
    data_root: str,
    run: Callable[[Task], dict[str, Any] | str],
    device: str = "cuda",
    fresh: bool = False,
) -> Found:
    """Which fast paths are right and faster, of those that these cells take.

    Args:
        of: the environment of what runs a task.
        run: carries out a task in a process of its own; or why that died, in one line.
        fresh: whether what was found before doesn't count.

    Raises:
        ConfigError: plain PyTorch can't train the cells there either, or their data can't be had.
    """
    from metaphase.core.training.proofs import one_of_each

    path, shapes = _file(of, cells), one_of_each(cells)
    known = None if fresh else _known(path)
    if known is not None:
        return Found(dict(of), known, _verdicts(known), kept=True)
    off: dict[str, str] = {}
    proofs: list[dict[str, Any]] = []
    for _ in range(TRIES):
        told = run(Task(shapes, plugins.in_use_by(shapes), data_root, device, dict(off)))
        if isinstance(told, str):
            told = {"proofs": [], "poisoned": True, "error": told}
        proofs = [proof for proof in proofs if proof["why"]] + told["proofs"]
        off |= {name: why for name, why in _verdicts(told["proofs"]).items() if why}
        if told["error"] and (set(ALL) <= off.keys() or not told["poisoned"]):
            raise ConfigError(told["error"])
        if told["error"]:  # of which path it is, isn't known
            for name in ALL:
                if name not in off:
                    off[name] = told["error"]
                    proofs.append(_unproven(name, told["error"]))
        if not told["poisoned"]:
            break
    if not any(says_full(proof["why"]) for proof in proofs):  # which others may fill
        _keep(path, of, proofs)
    return Found(dict(of), proofs, _verdicts(proofs))


def remember(cells: Sequence[Cell], of: Mapping[str, str], name: str, why: str) -> None:
    """Notes that a path has failed while cells were trained, for the next run of cells of these
    shapes. Where nothing can be kept it isn't noted."""
    path = _file(of, cells)
    others = [proof for proof in _known(path) or () if proof["name"] != name]
    _keep(path, of, [*others, _unproven(name, why)])


def _keep(path: str, of: Mapping[str, str], proofs: Sequence[Mapping[str, Any]]) -> None:
    caches.write(path, json.dumps({"environment": dict(of), "proofs": proofs}, indent=1))


def in_a_process(task: Task) -> dict[str, Any] | str:
    """Carries out a task in a process of its own on this machine; why that died, in one line."""
    code = "from metaphase.sweeps.execution import proving; proving._main()"
    with tempfile.TemporaryDirectory(prefix="metaphase-") as folder:
        (Path(folder) / "task").write_bytes(pickle.dumps(task))
        command = [sys.executable, "-P", "-c", code, folder]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"trying them takes longer than {SECONDS:.0f} s"
        try:
            told: dict[str, Any] = json.loads((Path(folder) / "found").read_text())
            return told
        except (OSError, ValueError):
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            return f"the process that tries them died ({done.returncode}) {''.join(said)[:200]}"


def _main() -> None:
    folder = Path(sys.argv[1])
    try:
        found = carry_out(pickle.loads((folder / "task").read_bytes()))
    except ConfigError as error:
        found = {"proofs": [], "poisoned": False, "error": str(error)}
    (folder / "found").write_text(json.dumps(found))


def _verdicts(proofs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {proof["name"]: proof["why"] for proof in proofs}


def _unproven(name: str, why: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("error", "bound", "fast", "plain"), math.nan)
    return {"name": name, "why": why, **numbers}


def _file(of: Mapping[str, str], cells: Sequence[Cell]) -> str:
    from metaphase.core.training.proofs import kind, one_of_each

    told = repr((sorted(of.items()), sorted(map(repr, map(kind, one_of_each(cells))))))
    return f"check-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def _known(path: str) -> list[dict[str, Any]] | None:
    """The proofs in a file of the cache; None if there is none, or it isn't one of ours."""
    try:
        proofs = json.loads(caches.read(path) or "{}")["proofs"]
        return [
            {"name": str(p["name"]), "why": str(p["why"])}
            | {key: float(p[key]) for key in ("error", "bound", "fast", "plain")}
            for p in proofs
        ]
    except (ValueError, KeyError, TypeError):
        return None
