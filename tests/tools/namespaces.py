"""Commands in namespaces of their own, for tests of machines unlike this one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import ROOT

NOBODY = ("unshare", "--user", "--map-user=54321", "--map-group=54321")  # no entry in passwd
OWN_MOUNTS = ("unshare", "--mount")


def works(prefix: tuple[str, ...]) -> bool:
    """Whether commands may be run so here."""
    try:
        return subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


needs_nobody = pytest.mark.skipif(not works(NOBODY), reason="no user namespaces here")
needs_mounts = pytest.mark.skipif(not works(OWN_MOUNTS), reason="no mount namespaces here")


def python(*arguments: str, prefix: tuple[str, ...] = (), **environment: str | None):
    """Runs Python with variables set, or unset where None."""
    unset = [name for name, value in environment.items() if value is None]
    return subprocess.run(
        [*prefix, sys.executable, *arguments],
        env={k: v for k, v in {**os.environ, **environment}.items() if k not in unset},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        cwd=ROOT,
    )
