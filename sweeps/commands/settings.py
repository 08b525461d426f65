"""Prints what a cell's settings are: `metaphase settings`.

The table is derived from the declarations in `core.cell.Cell`; as Markdown it stands in
results/README.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import SETTINGS
from metaphase.core.process import as_command
from metaphase.core.settings import NONE, Setting
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.sweeps.commands.parser import Parser, carry_out

_HEAD = ("column", "type", "default", "allowed", "role", "meaning")


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    return carry_out(_parser(), _print, argv)


def _parser() -> Parser:
    parser = Parser(
        prog="metaphase settings",
        description="Print the settings of a cell: type, default, what is allowed, meaning.",
    )
    parser.add_argument(
        "--markdown", action=argparse.BooleanOptionalAction, default=False, help="as Markdown"
    )
    return parser


def _print(markdown: bool) -> None:
    print("\n".join(markdown_table() if markdown else text_table()))


def rows() -> list[tuple[str, ...]]:
    """A row of texts for each setting of all cells, and then of the program's own task families:
    name, column type, default, allowed, roles, meaning."""
    listed = [(_users(setting), setting) for setting in SETTINGS.values()]
    for name, family in TASK_FAMILIES.items():
        if "@" not in name:
            listed += [((name,), setting) for setting in family.own.values()]
    return [
        (
            setting.name,
            setting.column,
            _shown(setting.default),
            setting.allowed,
            ", ".join(setting.roles),
            f"of {', '.join(users)}: {_meaning(setting)}" if users else _meaning(setting),
        )
        for users, setting in listed
    ]


def _users(setting: Setting) -> tuple[str, ...]:
    """The program's own families or architectures that alone use it; (): all do."""
    if setting.absent is NONE and setting.unused is NONE:
        return ()
    known: dict[str, Any] = TASK_FAMILIES if setting.unused is NONE else ARCHITECTURES
    return tuple(
        name for name, facts in known.items() if "@" not in name and setting.name in facts.settings
    )


def _meaning(setting: Setting) -> str:
    unused = f"{setting.unused} where the architecture has no such thing"
    texts = (setting.help, setting.stored, "" if setting.unused is NONE else unused)
    return "; ".join(filter(None, texts))


def markdown_table() -> list[str]:
    """The lines of the table in results/README.md."""
    lines = (_HEAD, ("---",) * len(_HEAD), *rows())
    return [f"| {' | '.join(line)} |" for line in lines]


def text_table() -> list[str]:
    """Two lines a setting: name, type, default and meaning; below it roles and what is allowed."""
    table = rows()
    widths = [max(map(len, column)) for column in list(zip(*table, strict=True))[:3]]
    lines = []
    for name, column, default, allowed, roles, meaning in table:
        texts = zip((name, column, default), widths, strict=True)
        head = "  ".join(text.ljust(width) for text, width in texts)
        lines += [f"{head}  {meaning}", f"{' ' * len(head)}  {roles}; allowed: {allowed}"]
    return lines


def _shown(default: object) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return "[]" if default == () else str(default)


if __name__ == "__main__":
    sys.exit(main())
