"""Files that commands write: whole or not at all, tables as CSV, figures the same byte for byte."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from metaphase.sweeps import places

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

REPORT = "report.html"
FIGURES = "figures"  # the folder of figures beside a sweep's tables
_DATE = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}  # metadata that isn't written
FORMATS = tuple(_DATE)
WIDTHS = ("column", "page", "slide")  # of figures, see `analysis.figures.style`


def write_file(folder: str, name: str, data: bytes) -> None:
    """Write whole or not at all: under a temporary name first. `folder` may be a URI."""
    from metaphase.analysis import load  # pandas takes half a second

    filesystem, path = load.open_folder(folder)
    filesystem.create_dir(path, recursive=True)
    temporary = f"{path}/.{name}.tmp"
    try:
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(data)
        filesystem.move(temporary, f"{path}/{name}")
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def write_table(folder: str, name: str, table: pd.DataFrame) -> None:
    """Write a table as CSV; `folder` may be a URI."""
    write_file(folder, name, table.to_csv(index=False).encode())


def write_figure(
    folder: str, name: str, make: Callable[[], Figure], format: str, width: str = WIDTHS[1]
) -> str:
    """Draw a figure and write it to `<folder>/figures/`; returns its file's name."""
    file = f"{name}.{format}"
    write_file(places.inside(folder, FIGURES), file, figure_bytes(make, format, width))
    return file


def figure_bytes(
    make: Callable[[], Figure], format: str, width: str = WIDTHS[1], dpi: float | None = None
) -> bytes:
    """A figure as a file's content, drawn in the package's style: equal figures are equal bytes.

    Args:
        make: draws the figure.
        format: one of `FORMATS`.
        width: one of `WIDTHS`.
        dpi: dots an inch (default: the style's).
    """
    from metaphase.analysis.figures import style  # here, so that a wrong path is told at once

    data = io.BytesIO()
    with style.context(width):
        options: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if format == "png" else {}
        make().savefig(data, format=format, dpi=dpi, metadata={_DATE[format]: None}, **options)
    return data.getvalue()


def is_folder(path: str) -> bool:
    """Whether there is a folder at this path or URI."""
    from pyarrow import fs

    from metaphase.analysis import load

    filesystem, inside = load.open_folder(path)
    return filesystem.get_file_info(inside).type == fs.FileType.Directory
