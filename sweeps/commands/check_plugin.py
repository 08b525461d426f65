"""Checks whether a plug-in keeps the promises that cells rest on.

    metaphase check-plugin ./my_family.py:Regression
    metaphase check-plugin transformer
    metaphase check-plugin ./halfway.py:halfway

Runs the plug-in's code. The checks are those of `core.conformance`.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from metaphase.core.cell import ConfigError
from metaphase.core.process import as_command
from metaphase.core.settings import as_line
from metaphase.sweeps.commands.parser import Parser, add_data_root, carry_out


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns 0 if all promises are kept, 1 if one is broken or the plug-in
    can't be loaded."""
    parser = Parser(
        prog="metaphase check-plugin",
        description="Check whether a plug-in keeps the promises that cells rest on.",
    )
    add = parser.add_argument
    add("plug_in", metavar="FILE.py:NAME", help="a plug-in, or the name of one of the program's")
    add(
        "--kind",
        choices=("task_family", "dataset", "architecture", "metrics", "rule"),
        help="what it is, where that doesn't show",
    )
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the cells that it is tried in. May be repeated",
    )
    add_data_root(parser)
    return carry_out(parser, _check, argv)


def _check(plug_in: str, kind: str | None, set: list[str], data_root: str) -> None:
    from metaphase.core import conformance, phase_rules, plugins
    from metaphase.sweeps import plug_ins
    from metaphase.sweeps.yaml12 import parse_yaml

    settings: dict[str, Any] = {}
    for text in set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}: expected key=value")
        settings[key.strip()] = plug_ins.resolve(key.strip(), parse_yaml(value), ".")
    kinds = [kind] if kind else plugins.kinds_of(plug_in)
    if not kinds:
        with contextlib.suppress(ConfigError):  # a class, say, that isn't made without arguments
            phase_rules.load(plug_in)
            kinds = [phase_rules.RULE]
    if not kinds:
        raise ConfigError(f"{plug_in!r} is no plug-in; give FILE.py:NAME, or --kind")
    broken = 0
    for found in kinds:
        if found == phase_rules.RULE:
            phase_rules.load(plug_in)  # says what is wrong with it
        known = found == phase_rules.RULE or plug_in in plugins.REGISTRIES[found]
        name = plug_in if known else plugins.load(found, plug_in)
        print(f"{found}: {name}")
        said: dict[str, list[str]] = {}  # which checks ended with a sentence
        for check in conformance.checks(found):
            words = check.replace("_", " ")
            try:
                conformance.run(check, found, name, settings, data_root)
            except Exception as error:
                ours = isinstance(error, (conformance.Broken, ConfigError))
                sentence = str(error) if ours else as_line(error)
                said.setdefault(sentence, []).append(words)
                if len(said[sentence]) == 1:
                    what = "broken" if ours else "fails "
                    print(f"  {what}  {words}\n          {sentence}", flush=True)
            else:
                print(f"  kept    {words}", flush=True)
        for first, *others in said.values():
            if others:
                print(f"  untried {', '.join(others)}: as {first}", flush=True)
        broken += len(said)
    if broken:
        raise ConfigError(f"{plug_in} breaks {broken} promise{'s' * (broken > 1)}")


if __name__ == "__main__":
    sys.exit(main())
