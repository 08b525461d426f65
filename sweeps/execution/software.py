"""Whether the machines of a cluster have the software that this command has.

Numbers of another version of the package or of PyTorch would be other numbers, and a machine
without them can train nothing. Both are found out before a cell is blamed for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

SECONDS = 60.0  # that the machines of a cluster may take to answer


def installed() -> dict[str, str]:
    """{name: version} of what training hangs on, as far as this Python has it. The package's
    version is a hash of its source, as copies that differ may say the same number.

    It is carried to machines that may lack this module: it uses nothing of it.
    """
    found = {}
    with contextlib.suppress(ModuleNotFoundError):
        digest = hashlib.sha256()
        for name in ("metaphase.core", "metaphase.sweeps"):
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(name)
            folder = Path(spec.origin).resolve().parent
            for path in sorted(folder.rglob("*")):
                if path.suffix in (".py", ".c", ".h"):
                    digest.update(f"{name}/{path.relative_to(folder).as_posix()}\0".encode())
                    digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
        found["metaphase"] = digest.hexdigest()[:12]
    with contextlib.suppress(metadata.PackageNotFoundError):
        # Builds for another device, such as 2.9.1+cpu, count as the same.
        found["torch"] = metadata.version("torch").partition("+")[0]
    return found


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What another machine has differently, in words; empty if nothing."""
    words = []
    for name, version in here.items():
        other = there.get(name)
        if other is None:
            words.append(f"lacks {name}")
        elif other != version and name == "metaphase":
            words.append(f"has another {name} (source {other}, here {version})")
        elif other != version:
            words.append(f"has {name} {other} (here {version})")
    return " and ".join(words)


def check_nodes() -> None:
    """Asks every machine of the connected cluster that may train.

    Raises:
        ConfigError: some have other software, in one line: which, and what.
    """
    from ray import cloudpickle

    import metaphase.sweeps.execution.software
    from metaphase.core.cell import ConfigError
    from metaphase.sweeps.execution import nodes

    cloudpickle.register_pickle_by_value(metaphase.sweeps.execution.software)
    try:
        asked = nodes.ask(installed, lambda has: bool(has.get("CPU") or has.get("GPU")))
    finally:
        cloudpickle.unregister_pickle_by_value(metaphase.sweeps.execution.software)
    here, wrong = installed(), {}
    told, _ = nodes.answers(asked, SECONDS, "can't run Python")
    for address, there in told:  # a machine that doesn't answer is Ray's to give up, not ours
        if what := there if isinstance(there, str) else difference(here, there):
            wrong[address] = what
    if wrong:
        raise ConfigError(
            "the cluster's machines need the same software as this one: "
            + "; ".join(f"{address} {what}" for address, what in sorted(wrong.items()))
        )
