"""Which code made a number: the release, and the commit or a digest of the sources."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "metaphase"
_PACKAGE = Path(__file__).resolve().parent
GIT_SECONDS = 10.0  # git may take this long


@functools.cache
def own_version() -> str:
    """The release and the code, such as `0.1.0, commit 1f2e3d4c5b6a`.

    The commit is known where the code is a git checkout (`-dirty` follows it if there are changes
    that aren't committed) or was installed from one by its URL. Elsewhere a digest of what computes
    the numbers stands for it: `0.1.0, sources 6a5b4c3d2e1f`.
    """
    try:
        release = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a checkout that isn't installed
        release = "not installed"
    commit = _checked_out() or _installed_from()
    return f"{release}, commit {commit}" if commit else f"{release}, sources {sources_digest()}"


def _checked_out() -> str | None:
    """The commit of the checkout that this file is tracked in."""
    git = ["git", "--no-optional-locks", "-C", str(_PACKAGE)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            check=True, capture_output=True, timeout=GIT_SECONDS,
        )  # fmt: skip
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            check=True, capture_output=True, text=True, timeout=GIT_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # no git, or no checkout
    return described.stdout.strip() or None


def _installed_from() -> str | None:
    """The commit that pip notes where it installs from a repository's URL."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])[:12]
    except (metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return None


@functools.cache
def sources_digest() -> str:
    """Digest of the package that computes the numbers: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    sources = (p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".c", ".h"))
    for path in sorted(sources, key=lambda p: p.relative_to(_PACKAGE).as_posix()):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
