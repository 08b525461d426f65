"""Trains one cell without Ray and prints its metrics: `python -m metaphase.core.train --model-size
32 ...`.

Every setting of `core.cell.Cell` is an option, and so are those of plug-ins that are named, such as
`--task-family ./mine.py:Regression --dimension 4`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from metaphase.core import plugins
from metaphase.core.cell import SETTINGS, Cell, ConfigError
from metaphase.core.plugins import NAMED_BY
from metaphase.core.process import as_command
from metaphase.core.settings import Setting


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


def _folder(text: str) -> str:
    if "://" in text or not text.strip():
        raise argparse.ArgumentTypeError("allowed: a folder")
    return text


def parse(argv: Sequence[str] | None) -> tuple[Cell, argparse.Namespace]:
    """Command line -> the cell and the other options. Raises ConfigError on an impossible cell."""
    parser = _Parser(prog="python -m metaphase.core.train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: cuda where there is one")
    parser.add_argument("--data-root", type=_folder, default="data", help="folder of the data sets")
    for setting in SETTINGS.values():
        _add(parser, setting)
    named, _ = parser.parse_known_args(argv)
    loaded = {key: _loaded(kind, getattr(named, key)) for key, kind in NAMED_BY.items()}
    own = plugins.own_in_use(loaded)
    for setting in own.values():
        _add(parser, setting)
    arguments = parser.parse_args(argv)
    settings = {key: getattr(arguments, key) for key in (*SETTINGS, *own)}
    return Cell.from_dict(settings | loaded), arguments


def _loaded(kind: str, value: Any) -> Any:
    """A setting's value, plug-ins in it loaded and replaced by their names."""
    if isinstance(value, (list, tuple)):
        return tuple(_loaded(kind, part) for part in value)
    return plugins.load(kind, value) if plugins.is_reference(value) else value


def _add(parser: argparse.ArgumentParser, setting: Setting) -> None:
    option = f"--{setting.name.replace('_', '-')}"
    parser.add_argument(option, default=setting.default, **_option(setting))


def _option(setting: Setting) -> dict[str, Any]:
    """How argparse takes a setting."""
    options: dict[str, Any] = {"help": f"{setting.help} (default: {setting.default})"}
    if setting.kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif setting.kind is tuple:
        options["nargs"] = "*"
    elif setting.choices and setting.name not in NAMED_BY:
        options["choices"] = setting.choices
    else:
        options["type"] = setting.kind
    return options


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or with one line 1 for an impossible setting, 2 for a wrong command line."""
    try:
        cell, arguments = parse(argv)
        from metaphase.core.devices import training_device
        from metaphase.core.training.trainer import PackTrainer

        device = training_device(arguments.device)
        trainer = PackTrainer([cell], device=device, data_root=arguments.data_root)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for key, why in cell.without_effect.items():
        said = getattr(arguments, key)
        if said not in (SETTINGS[key].default, getattr(cell, key)):
            print(f"note: {key}: {said} has no effect: {why}", file=sys.stderr)
    print(f"{'step':>7}  {'split':<20} {'loss':>7} {'first':>7} {'last':>7}  improvement ± error")
    while not trainer.finished:
        trainer.advance()
        for row in trainer.history[0]:
            if row["step"] == trainer.step:
                print(
                    "{step:>7}  {split:<20} {loss:>7.3f} {first:>7.3f} {last:>7.3f}  "
                    "{improvement:+.3f} ± {improvement_se:.3f}".format(**row)
                )
    row, _ = trainer.results()[0]
    print(f"\n{'cell_id':<15} {row['cell_id']}")
    for key in ("status", "num_parameters", "state_size", "chance", "device", "versions"):
        print(f"{key:<15} {row[key]}")
    print(f"{'wall_seconds':<15} {row['wall_seconds']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
