"""The plug-ins in docs/extending.md, as files."""

import re
from pathlib import Path

from tests import ROOT


def write_plug_ins(folder: Path) -> dict[str, Path]:
    """{file name: path} of the code blocks that begin with a file's name."""
    text = (ROOT / "docs" / "extending.md").read_text()
    written = {}
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        written[name] = folder / name
        written[name].write_text(code)
    return written
