"""The command `metaphase`: its words lead to the modules' own main functions."""

from __future__ import annotations

import importlib
import sys

from metaphase.core.cell import ConfigError
from metaphase.core.process import as_command
from metaphase.sweeps import places
from metaphase.sweeps.commands.parser import WRONG

COMMANDS = {  # word: (module with a main(argv), what it does)
    "run": ("metaphase.sweeps.run", "train the cells of a preset that are missing in its results"),
    "status": (
        "metaphase.sweeps.commands.status",
        "show how far a sweep is: finished, running, missing cells",
    ),
    "watch": ("metaphase.watch", "show a sweep in the terminal while it is trained"),
    "serve": ("metaphase.serve", "serve a page with the maps of sweeps, which follows them"),
    "track": (
        "metaphase.sweeps.commands.track",
        "mirror finished cells to TensorBoard, W&B, MLflow or trackio",
    ),
    "yardsticks": (
        "metaphase.sweeps.commands.yardsticks",
        "run known learning algorithms on the same sequences",
    ),
    "check": ("metaphase.sweeps.commands.check", "try what runs need of this machine"),
    "check-plugin": (
        "metaphase.sweeps.commands.check_plugin",
        "check whether a plug-in keeps its promises",
    ),
    "settings": ("metaphase.sweeps.commands.settings", "print the settings that a cell can have"),
    "compact": (
        "metaphase.sweeps.commands.compact",
        "merge a results folder's many small files into few",
    ),
    "plot": ("metaphase.analysis.phase_plot", "draw the phase diagrams of a results folder"),
    "report": (
        "metaphase.analysis.commands.report",
        "write one HTML page with a sweep's figures and numbers",
    ),
    "compare": ("metaphase.analysis.commands.compare", "put a sweep beside the paper's numbers"),
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
