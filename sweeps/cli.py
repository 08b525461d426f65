"""The command `metaphase`: its words lead to the modules' own main functions."""

from __future__ import annotations

import importlib
import sys

from metaphase.core.cell import ConfigError
from metaphase.core.process import as_command
from metaphase.sweeps import places
from metaphase.sweeps.commands.parser import WRONG

COMMANDS = {  # word: (module with a main(argv), what it does: its description)
    "run": ("metaphase.sweeps.run", "train the cells of a sweep that its results lack"),
    "status": (
        "metaphase.sweeps.commands.status",
        "show how far a sweep is: finished, failed, running and missing cells",
    ),
    "watch": ("metaphase.watch", "show a sweep in the terminal while it is trained"),
    "serve": ("metaphase.serve", "serve a page with the maps of sweeps, which follows them"),
    "track": (
        "metaphase.sweeps.commands.track",
        "mirror a sweep's finished cells to an experiment tracker",
    ),
    "yardsticks": (
        "metaphase.sweeps.commands.yardsticks",
        "run known learning algorithms on the sequences that a sweep's cells are evaluated on",
    ),
    "check": (
        "metaphase.sweeps.commands.check",
        "try what runs need of this machine, and say what a run would use",
    ),
    "check-plugin": (
        "metaphase.sweeps.commands.check_plugin",
        "check whether a plug-in keeps the promises that cells rest on",
    ),
    "settings": (
        "metaphase.sweeps.commands.settings",
        "print the settings of a cell: type, default, what is allowed, meaning",
    ),
    "compact": (
        "metaphase.sweeps.commands.compact",
        "merge a sweep's many small Parquet files into few",
    ),
    "plot": (
        "metaphase.analysis.phase_plot",
        "classify a sweep's cells and draw its phase diagrams",
    ),
    "report": (
        "metaphase.analysis.commands.report",
        "write one HTML page with a sweep's figures and numbers",
    ),
    "compare": (
        "metaphase.analysis.commands.compare",
        "put a sweep beside another one, or published numbers",
    ),
}


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs a command. Returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        places.refuse_credentials(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    if argv and argv[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[argv[0]][0])
        return module.main(argv[1:])
    words = "\n".join(f"  {word:14}{text}" for word, (_, text) in COMMANDS.items())
    usage = f"usage: metaphase COMMAND ...\n\n{words}\n\n`metaphase COMMAND --help` says more."
    if argv and argv[0] in ("-h", "--help"):
        print(usage)
        return 0
    if argv:
        print(f"error: {argv[0][:80]!r} is not one of {', '.join(COMMANDS)}", file=sys.stderr)
    else:
        print(usage, file=sys.stderr)
    return WRONG


if __name__ == "__main__":
    sys.exit(main())
