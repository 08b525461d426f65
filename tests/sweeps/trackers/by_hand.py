"""`metaphase track` as people type it."""

import subprocess
import sys

from metaphase.sweeps.trackers import mirror


def by_hand(results, name, tmp_path, taken=3, at=""):
    """Mirrors in a process of its own: trackers keep global state. Returns the mirror's folder."""
    command = [sys.executable, "-m", "metaphase.sweeps.cli", "track", str(results), "--to", name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    there = f" ({at})" if at else ""
    assert f"{taken} cells mirrored to {name}{there}, 3 in all" in done.stdout
    return mirror.folder_of(results, name, tmp_path / mirror.FOLDER)
