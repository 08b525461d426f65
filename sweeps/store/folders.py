"""Looking at folders and files of this machine that others may have put anything into.

Names that aren't text, links that lead nowhere or in circles, folders in the place of files and the
other way round, pipes and devices: none of it is followed, waited for or removed by mistake.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator


def list_files(folder: str, say: Callable[[str], None], depth: int = 1) -> list[tuple[str, float]]:
    """(path relative to the folder, seconds since 1970 when it was last written) of the files in a
    folder, and with depth 2 in its folders, but not in links to folders. Names in front of which is
    a dot are left out; so are those that aren't UTF-8: `say` gets a line about each. Empty if there
    is no such folder.

    Raises:
        OSError: it is no folder, or can't be listed.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    found = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not is_text(entry.name):
            say(f"{shown(entry.path)} is left out: its name is not UTF-8")
        elif depth > 1 and entry.is_dir(follow_symlinks=False):
            inside = list_files(entry.path, say, depth - 1)
            found += [(f"{entry.name}/{name}", at) for name, at in inside]
        else:
            try:
                status = entry.stat()
            except OSError:  # gone meanwhile, or a link that leads nowhere or in circles
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((entry.name, status.st_mtime))
    return found


def odd_entries(folder: str, files: bool) -> Iterator[os.DirEntry]:
    """What is in a folder and isn't a file, as it should be, or with `files` False not a folder.
    A link to a file is a file, a link to a folder no folder. Empty if there is no such folder."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        try:
            fits = entry.is_file() if files else entry.is_dir(follow_symlinks=False)
        except OSError:  # a link in a circle
            fits = False
        if not fits:
            yield entry


def check_is_file(path: str) -> None:
    """Raises OSError unless it is a file: reading a pipe waits, reading a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        kind = "a folder" if os.path.isdir(path) else "not a file"
        raise OSError(f"{shown(path)} is {kind} where a file should be; move it away")


def set_aside(path: str) -> str:
    """Gives what is at `path`, of whatever kind, a name that no reader of the folder looks at.
    Returns the new path."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f"_{name}.damaged")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = os.path.join(folder, f"_{name}.{number}.damaged")
    os.rename(path, aside)
    return aside


def remove_folder(path: str) -> None:
    """Removes a folder with what is in it, or a link, but never what a link leads to. None is
    fine, and what can't be removed stays."""
    try:
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A text from a file or a name, fit for a line in a terminal: what would control it, and what
    isn't UTF-8, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """An error's message as one line that is fit for a terminal, at most 300 characters."""
    return shown(" ".join(str(error).split()))[:300] or type(error).__name__
