"""Trains one cell without Ray and prints its metrics: `python -m metaphase.core.train --model-size
32 ...`.

Every setting of `core.cell.Cell` is an option.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from metaphase.core.cell import SETTINGS, Cell, ConfigError
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
    for key, setting in SETTINGS.items():
        parser.add_argument(
            f"--{key.replace('_', '-')}", default=setting.default, **_option(setting)
        )
    arguments = parser.parse_args(argv)
    return Cell(**{key: getattr(arguments, key) for key in SETTINGS}), arguments


def _option(setting: Setting) -> dict[str, Any]:
    """How argparse takes a setting."""
    options: dict[str, Any] = {"help": f"{setting.help} (default: {setting.default})"}
    if setting.kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif setting.kind is tuple:
        options["nargs"] = "*"
    elif setting.choices:
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
