"""Mutates the files of a small trained tree, runs the commands on it, and looks at what came out.

    python -m tests.tools.tree_fuzzer --cases 3000 --seed 1

Bytes, types, columns, rows, names, links, kinds of files, content of checkpoints, the lease: a case
is a copy of a real tree with one to three of these changed, a pure function of (seed, number). Then
`status`, the loaders, `run`, sometimes `compact`, `yardsticks`, `plot` and `report` are called in
this process. Each ends in success or in one line; what `run` trained again is the same to the bit;
nothing outside of the tree is another.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metaphase.analysis import load, phase_plot
from metaphase.analysis.commands import report
from metaphase.analysis.statistics import phases
from metaphase.core.cell import NUMERICS
from metaphase.sweeps import run
from metaphase.sweeps.commands import compact, status, yardsticks
from metaphase.sweeps.execution import driver
from metaphase.sweeps.execution.pack_run import Job
from metaphase.sweeps.execution.worker import PackTrial
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.store import checkpoints, lease, sweepfile
from metaphase.sweeps.store.layout import TABLES
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.tables import FILLED, RESULTS

PRESET = """
cell: {image_size: 2, num_classes: 3, sequence_length: 4, model_size: 4, num_heads: 1, key_size: 4,
  num_layers: 1, batch_size: 2, steps: 4, warmup_steps: 1, eval_every: 2, eval_sequences: 4}
grid: {num_tasks: [1, 4, 16]}
"""
CELLS = parse_preset(PRESET, default_name="tiny").cells
KEYS = {
    "cells": ["cell_id"],
    "history": ["cell_id", "step", "split"],
    "curves": ["cell_id", "split", "position"],
}
SECONDS = 60  # that a case may take, or it hangs
ERROR = r"(error|report|(metaphase|python -m) [\w.]+): "  # begins a line that ends a command
MAY_DIFFER = ["wall_seconds", "versions"]
TREE = "results/tiny"


def train_here(
    results: Results, cells: Sequence[Any], *, lease: Any, data_root: str, **more: Any
) -> driver.Outcome:
    """`driver.train` without Ray: in this process, one pack."""
    trial = object.__new__(PackTrial)
    packs = [Pack(tuple(cells), 0, 1.0)]
    job = Job(results.root, results.sweep, lease.driver, data_root, "cpu", packs)
    trial.setup({"pack": 0}, job)
    report = trial.step()
    while not report["done"]:
        report = trial.step()
    trial.cleanup()
    return driver.Outcome(wall_seconds=1.0, workers=1, config_error=report["config_error"])


@contextlib.contextmanager
def in_process() -> Iterator[None]:
    """Inside, `run` trains in this process, and nothing waits for other machines."""
    with (
        mock.patch.object(driver, "train", train_here),
        mock.patch.object(driver, "log_to", return_value=None),
        mock.patch.object(compact, "LISTING_SECONDS", 0.0),
        mock.patch.object(lease, "GRACE_SECONDS", 0.0),
    ):
        yield


class Fuzzer:
    """The trees to start from, and what they hold once all cells are trained.

    Args:
        folder: everything is made in it.
        seed: of the mutations.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.preset = folder / "tiny.yaml"
        self.preset.write_text(PRESET)
        self.said: Counter[str] = Counter()  # what was changed, and what the commands ended in
        self._make("plain")
        shutil.copytree(folder / "plain", folder / "merged")
        assert self.call(compact.main, self._tree("merged"))[0] == 0
        whole = shutil.copytree(folder / "plain", folder / "whole") / TREE
        assert self.run(whole)[0] == 0
        self.expected = self.tables(whole)
        assert {len(t["cell_id"].unique()) for t in self.expected.values()} == {len(CELLS)}

    def _tree(self, name: str) -> Path:
        return self.folder / name / TREE

    def _make(self, name: str) -> None:
        """Two cells finished, one half trained with two checkpoints, yardsticks."""
        grid = ["--set", "num_tasks=[1,4]"]
        assert self.run(self._tree(name), *grid)[0] == 0
        assert self.call(yardsticks.main, self._tree(name))[0] == 0
        results = Results.at(str(self._tree(name)))
        sweepfile.write_settings(results, parse_preset(PRESET, default_name="tiny").settings)
        from metaphase.core.training.trainer import PackTrainer

        half = PackTrainer([CELLS[2]])
        half.advance()
        results.checkpoints.write_history(CELLS[2].cell_id, half.history[0])
        results.checkpoints.write(half.states()[0])
        half.train(1)
        results.checkpoints.write(half.states()[0])

    # --- the commands ---

    def call(self, main: Callable[[list[str]], int], *arguments: Any) -> tuple[int, str]:
        """(exit status, what it said). Raises AssertionError unless that is as it should be."""
        out, log = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(log)
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                ended = main([str(a) for a in arguments])
        finally:
            logging.getLogger().removeHandler(handler)
        said = out.getvalue()
        assert "Traceback" not in said, said
        assert all(c.isprintable() or c == "\n" for c in said), repr(said)
        if ended:
            errors = [line for line in said.split("\n") if re.match(ERROR, line)]
            assert len(errors) == 1, said
        return ended, said

    def run(self, tree: Path, *more: str) -> tuple[int, str]:
        return self.call(run.main, self.preset, "--root", tree.parent, *more)

    def tables(self, tree: Path) -> dict[str, pd.DataFrame]:
        """What the loaders give of the grid's cells."""
        found = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", load.ResultsWarning)
            for name, read in (
                ("cells", load.load_cells),
                ("history", load.load_history),
                ("curves", load.load_curves),
            ):
                table = read(tree)
                table = table[table["cell_id"].isin([cell.cell_id for cell in CELLS])]
                table = table.drop(columns=[c for c in MAY_DIFFER if c in table])
                if "own_settings" in table:  # null in files of earlier versions: there are none
                    table["own_settings"] = table["own_settings"].fillna("")
                found[name] = table.sort_values(KEYS[name], ignore_index=True)
            phases.classify(found["cells"])
        return found

    # --- a case ---

    def case(self, number: int) -> None:
        """Raises AssertionError, or what a command raised, if something is not as it should be."""
        chance = random.Random(f"{self.seed} {number}")
        place = self.folder / f"case-{number}"
        shutil.copytree(self.folder / chance.choice(["plain", "merged"]), place)
        tree, outside = place / TREE, place / "outside"
        shutil.copytree(tree / "cells", outside / "cells")
        (outside / "folder").mkdir()
        (outside / "folder" / "1.n2.ckpt").write_text("not ours")
        (outside / "keep.txt").write_text("not ours")
        changes = Changes(chance, tree, outside)
        previous = signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(SECONDS)
        try:
            for _ in range(chance.choice([1, 1, 2, 3])):
                changes.make()
            before = snapshot(outside)
            self._commands(chance, tree)
            assert snapshot(outside) == before, "something outside of the tree is another"
        except BaseException:
            print(f"case {number} of seed {self.seed}: {changes.made}", file=sys.stderr)
            raise
        finally:
            _close_logs()
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        self.said.update(kind for kind, _ in changes.made)
        shutil.rmtree(place)

    def _commands(self, chance: random.Random, tree: Path) -> None:
        self.call(status.main, tree)
        with contextlib.suppress(load.ResultsError):
            self.tables(tree)
        if chance.random() < 0.3:
            self.call(compact.main, tree)
        if chance.random() < 0.02:
            self.call(chance.choice([phase_plot.main, report.main]), tree)
        if chance.random() < 0.1:
            self.call(yardsticks.main, tree)
        for _ in range(4):
            ended, said = self.run(tree)
            if not ended:
                break
            self.said["run: one line"] += 1
            self._follow(said)
        assert not ended, said
        assert "failed" not in said, said
        if chance.random() < 0.3:
            ended, said = self.call(compact.main, tree)
            assert not ended, said
        tables = self.tables(tree)
        for name, table in self.expected.items():
            pd.testing.assert_frame_equal(tables[name][table.columns], table, check_exact=True)
        ended, said = self.run(tree)
        assert not ended, said
        assert "Nothing to do" in said, said
        ended, said = self.call(status.main, tree)
        assert not ended, said

    def _follow(self, said: str) -> None:
        """Does what the line says can be done."""
        if match := re.search(
            r"error: (?:root: can't look at )?(/.*?)(:| is (not )?a )[^/]*(move it away|remove it)",
            said,
        ):
            path = Path(match[1])
            assert TREE in str(path), said
            path.rename(path.with_name(f"away-{path.name}"))
        else:
            raise AssertionError(f"a line that doesn't say what can be done: {said}")


def _close_logs() -> None:
    """Those that workers, here all in one process, have opened."""
    logger = logging.getLogger("metaphase")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def _hangs(number: int, frame: Any) -> None:
    raise AssertionError(f"a command hangs for {SECONDS} s")


def snapshot(folder: Path) -> dict[str, Any]:
    """What is below a folder; of a table's folder, which the tree may have a link to, without the
    table's files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.parent.name == "cells" and (path.suffix == ".parquet" or path.name[0] == "_"):
            continue
        found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


class Changes:
    """Makes changes to a tree.

    Attributes:
        made: (kind, file) of those made.
    """

    def __init__(self, chance: random.Random, tree: Path, outside: Path):
        self.chance, self.tree, self.outside = chance, tree, outside
        self.made: list[tuple[str, str]] = []
        self.kinds = [
            *(self.bytes_changed, self.columns_changed, self.rows_changed, self.renamed),
            *(self.other_kind, self.linked, self.checkpoint_changed, self.lease_changed),
            *(self.foreign_added, self.settings_changed, self.folder_replaced, self.taken_away),
        ]

    def make(self) -> None:
        kind = self.chance.choice(self.kinds)
        try:
            what = kind()
        except (OSError, pa.ArrowException, IndexError, UnicodeEncodeError):  # one is in the way
            return
        self.made.append((kind.__name__, str(what)))

    def _files(self, pattern: str = "*") -> list[Path]:
        found = [p for p in self.tree.rglob(pattern) if p.is_file() and not p.is_symlink()]
        return sorted(found)

    def _file(self, pattern: str = "*") -> Path:
        return self.chance.choice(self._files(pattern))

    def _table(self) -> Path:
        return self._file("*.parquet")

    def bytes_changed(self) -> str:
        path, how = self._file(), self.chance.randrange(6)
        data = bytearray(path.read_bytes())
        at = self.chance.randrange(len(data) + 1)
        if how == 0:
            data = data[:at]
        elif how == 1:
            data += self.chance.randbytes(50)
        elif how == 2:
            data = bytearray(self.chance.randbytes(len(data)))
        elif how == 3:
            data = bytearray(self._file().read_bytes())
        else:
            for i in range(at, min(len(data), at + self.chance.choice([1, 4, 100]))):
                data[i] ^= self.chance.randrange(1, 256)
        path.write_bytes(data)
        return f"{path} {how}"

    def columns_changed(self) -> str:
        """Types that others write, columns too few, too many, or of other names."""
        path = self._table()
        table = pq.read_table(path, partitioning=None)
        name = self.chance.choice(table.column_names)
        how = self.chance.randrange(12)
        column, at = table[name], table.column_names.index(name)
        rows = table.num_rows
        if how == 9 and path.parent.name == "cells" and name not in (*FILLED["cells"], *RESULTS):
            return f"{path} {name} may be null, as in files of earlier versions"
        if how == 0:
            table = table.drop_columns([name])
        elif how == 1:
            names = [f"{n} " if n == name else n for n in table.column_names]
            table = table.rename_columns(names)
        elif how == 2:
            table = table.append_column(name, column)
        elif how == 3:
            odd = [{"a": 1}, [1, 2], b"\xff", None][self.chance.randrange(4)]
            table = table.append_column("extra", pa.array([odd] * rows))
        else:
            # "None" would be as good a text as any where a column has texts.
            texts = [str(v) if v is not None else None for v in column.to_pylist()]
            new = {
                4: lambda: pa.array([[v] for v in texts]),
                5: lambda: pa.array([{"a": v} for v in texts]),
                6: lambda: pa.array(texts),
                7: lambda: pa.array(texts).dictionary_encode(),
                8: lambda: pa.array([f"{v}".encode() + b"\xff" for v in texts]),
                9: lambda: pa.nulls(rows),
                10: lambda: column.combine_chunks().dictionary_encode(),
                11: lambda: pa.array([b"\xff\xfe" for _ in texts], pa.binary()).view(pa.string()),
            }[how]()
            table = table.set_column(at, name, new)
        pq.write_table(table, path)
        return f"{path} {name} {how}"

    def rows_changed(self) -> str:
        """Rows twice, none, of nobody, of another cell, with values that can't be."""
        path = self._table()
        table = pq.read_table(path, partitioning=None)
        try:
            rows, how = table.to_pylist(), self.chance.randrange(7)
        except UnicodeDecodeError:  # made so by another change
            return f"{path} holds bytes that are no text"
        row = self.chance.choice(rows)
        if how == 0:
            rows.append(row)
        elif how == 1:
            rows = [*rows, *rows]
        elif how == 2:
            rows = [r for r in rows if r.get("cell_id") != row.get("cell_id")]
        elif how == 3:
            row["cell_id" if "cell_id" in row else "split"] = None
        elif how == 4 and "status" in row:
            row["status"] = self.chance.choice([None, "", "finished", "DONE"])
        elif how == 5 and "cell_id" in row:
            row["cell_id"] = self.chance.choice(["", "../../outside", "x" * 500, "\x1b[31m", "²"])
        else:
            number = self.chance.choice(
                [f.name for f in table.schema if f.name in ("n", "position")]
            )
            row[number] = self.chance.choice([None, -1, 0])
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        return f"{path} {how}"

    def _name(self, path: Path) -> bytes:
        ids = [cell.cell_id for cell in CELLS] + ["f" * 16]
        end = path.suffix.encode()
        names = [f"{id_}".encode() + end for id_ in ids]
        names += [b"\xff\xfe" + end, "²".encode() + end, b"a\nb\x1b[31m" + end, b"x" * 200 + end]
        names += [b"compact-" + b"0" * 16 + end, b"compact-\xff" + end, b" " + end, b"-rf" + end]
        names += [b"99999999.n2.ckpt", b"4.n2.ckpt", "²".encode() + b".n2.ckpt", b"1.ckpt"]
        return self.chance.choice(names)

    def renamed(self) -> str:
        path = self._file()
        target = os.path.join(os.fsencode(path.parent), self._name(path))
        how = self.chance.choice([os.rename, shutil.copy])
        how(os.fsencode(path), target)
        return f"{path} {target!r} {how.__name__}"

    def taken_away(self) -> str:
        path = self._file()
        path.unlink()
        return str(path)

    def other_kind(self) -> str:
        """A folder, a pipe or a device where a file is."""
        path, how = self._file(), self.chance.randrange(4)
        path.unlink()
        if how == 0:
            path.mkdir()
        elif how == 1:
            path.mkdir()
            (path / "inside.parquet").write_text("x")
        elif how == 2:
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return f"{path} {how}"

    def linked(self) -> str:
        """A link where a file or folder is, mostly out of the tree."""
        how = self.chance.randrange(8)
        if how == 0:  # as a user does whose disk is full
            path = self.tree / "cells"
            shutil.rmtree(self.outside / "cells")
            path.rename(self.outside / "cells")
            path.symlink_to(self.outside / "cells")
        elif how == 1:
            path = self.tree / "checkpoints" / self.chance.choice(CELLS).cell_id
            shutil.rmtree(path, ignore_errors=True)
            path.symlink_to(self.outside / "folder")
        elif how == 2:
            path = self.tree / self.chance.choice([".cells.compact", ".history.compact"])
            path.symlink_to(self.outside)
        elif how == 3:
            path = self.tree / self.chance.choice([".exchange-a", ".exchange-b"])
            path.symlink_to(self.outside)
        elif how == 4:
            path = self._file()
            path.unlink()
            path.symlink_to(self.chance.choice([path.name, "nowhere", ".", self.outside]))
        elif how == 5:
            path = self.tree / "cells" / "up"
            path.symlink_to("..")
        elif how == 6:
            path = self._file()
            path.unlink()
            path.symlink_to(self.outside / "keep.txt")
        else:
            path = self._file()
            moved = self.outside / f"moved-{path.name}"
            path.rename(moved)
            path.symlink_to(moved)
        return f"{path} {how}"

    def folder_replaced(self) -> str:
        path = self.tree / self.chance.choice([*TABLES, "yardsticks", "checkpoints", "logs"])
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        how = self.chance.randrange(4)
        if how == 0:
            path.write_text("a file")
        elif how == 1:
            path.symlink_to(path.name)
        elif how == 2:
            path.symlink_to("nowhere")
        return f"{path} {how}"

    def checkpoint_changed(self) -> str:
        """Checkpoints of the right form whose content isn't: their checksums are right."""
        path = self._file("checkpoints/*/*.ckpt")
        payload = path.read_bytes().partition(b"\n")[2]
        try:
            state = dict(torch.load(io.BytesIO(payload), weights_only=True))
        except (EOFError, RuntimeError, TypeError, ValueError, UnpicklingError) as error:
            raise OSError("an earlier change is in the way") from error
        key, how = self.chance.choice(sorted(state)), self.chance.randrange(6)
        if how == 0:
            del state[key]
        elif how == 1:
            state[key] = self.chance.choice(
                [None, "", -1, 2**70, float("nan"), [], {}, torch.zeros(3), torch.zeros(0)]
            )
        elif how == 2:
            state["history"] = state["history"][: self.chance.randrange(3)]
        elif how == 3:
            state["theta"] = state["theta"].double() if key < "m" else state["theta"][:-1]
        elif how == 4:
            state["numerics"] = NUMERICS + 1
        else:
            state = self.chance.choice([[], None, "state", {"a": state}])
        if isinstance(state, dict) and how == 1 and key in ("wall_seconds", "average_loss"):
            state[key] = "none"  # another number would be as good as any
        buffer = io.BytesIO()
        torch.save(state, buffer)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
        path.write_bytes(checkpoints.MAGIC + digest + b"\n" + buffer.getvalue())
        return f"{path} {key} {how}"

    def lease_changed(self) -> str:
        far = time.time() + 1e9
        odd = [None, "x", [], {}, True, -1, 1e999, 10**400, float("nan"), far, "\x1b[31m\n", "²"]
        keys = ("driver", "host", "machine", "pid", "born", "since", "expires", "stop", "seeks")
        text = self.chance.choice(
            [
                "[" * 100_000,
                '{"a":' * 50_000,
                "null",
                "[]",
                '"text"',
                "\xff",
                json.dumps({key: self.chance.choice(odd) for key in keys}),
                json.dumps({key: self.chance.choice(odd) for key in keys} | {"driver": "x"}),
                json.dumps(
                    {"driver": "x", "expires": far, "host": "h\x1b]0;x\x07", "since": 1e300}
                ),
                json.dumps({"driver": "x" * 100_000, "expires": far}),
            ]
        )
        (self.tree / "driver").write_bytes(text.encode("latin-1", "replace"))
        return text[:200]

    def foreign_added(self) -> str:
        """Files that are none of ours."""
        folder = self.tree / self.chance.choice(["cells", "history", "curves", "yardsticks", ""])
        how = self.chance.randrange(8)
        path = folder / self.chance.choice(["foreign.parquet", "compact-foreign.parquet"])
        odd: Any = [["a"], {"a": 1}, b"\xff", 1.5, None, "", "²"][self.chance.randrange(7)]
        if how == 0:
            pq.write_table(pa.table({"cell_id": pa.array([odd, odd])}), path)
        elif how == 1:
            table = pq.read_table(self._table(), partitioning=None)
            pq.write_table(table.append_column("more", pa.array([odd] * table.num_rows)), path)
        elif how == 2:
            path = folder / "notes.txt"
            path.write_text("notes")
        elif how == 3:
            (folder / "sub" / "cells").mkdir(parents=True)
            path = shutil.copy(self._table(), folder / "sub" / "cells")
        elif how == 4:
            with open(os.fsencode(folder) + b"/\xff.parquet", "wb") as file:
                file.write(b"x")
        elif how == 5:
            pq.write_table(pa.table({"x": [1]}), path)
        elif how == 6:
            path = self.tree / "checkpoints" / self.chance.choice(["²", "x", "5.n2.ckpt"])
            path.write_text("x")
        else:
            path = self.tree / "checkpoints" / CELLS[2].cell_id / "notes.txt"
            path.write_text("notes")
        return f"{path} {how} {odd!r}"

    def settings_changed(self) -> str:
        text = self.chance.choice(
            ["", "name: [", "\x00", "cell: {}\ngrid: {steps: [1]}\n", "- " * 5000, "a: &a [*a]\n"]
        ).encode()
        if self.chance.random() < 0.2:
            text = b"name: \xff\n"
        if self.chance.random() < 0.7:
            text += sweepfile.checksum_line(text)
        (self.tree / "sweep.yaml").write_bytes(text)
        return repr(text[:50])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if all cases went as they should, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tree-fuzzer-") as folder, in_process():
        fuzzer = Fuzzer(Path(folder), arguments.seed)
        for number in range(arguments.first, arguments.first + arguments.cases):
            try:
                fuzzer.case(number)
            except Exception as error:
                wrong += 1
                text = " ".join(str(error).split())[:600]
                print(f"PROBLEM: case {number}: {type(error).__name__}: {text}", flush=True)
    for what, count in sorted(fuzzer.said.items()):
        print(f"{what:24}{count:6}")
    seconds = time.monotonic() - began
    print(f"{arguments.cases} cases of seed {arguments.seed}, {wrong} wrong, {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
