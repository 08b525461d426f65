"""The house: imports run one way, in no circle; modules are short; every package is installed."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter

from tests import ROOT

MOST_LINES = 399
# What each top-level folder may import of the others, imports inside functions included.
ALLOWED = {
    "core": (),
    "sweeps": ("core",),
    "analysis": ("core", "sweeps.store", "sweeps.places", "sweeps.commands.parser"),
    "metaphase": ("core", "sweeps", "analysis"),
}


def modules() -> dict[str, ast.Module]:
    found = {}
    for top in ALLOWED:
        # Beside the modules of `metaphase` itself are links to the other folders.
        found_in = (ROOT / top).glob("*.py") if top == "metaphase" else (ROOT / top).rglob("*.py")
        for path in found_in:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that it imports, without `metaphase.`; what only type checkers see isn't
    counted."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from imported(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("metaphase.")
                yield whole if whole in MODULES else node.module.removeprefix("metaphase.")
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("metaphase.") for alias in node.names)


GRAPH = {
    name: {other for other in imported(tree) if other in MODULES and other != name}
    for name, tree in MODULES.items()
}


# Packages whose own module is what is known without torch; their other modules build on core.cell.
FACTS = ("core.architectures", "core.datasets", "core.evaluation", "core.tasks")


def room(module: str) -> str:
    """The folder a module is in. Those at the top of core, sweeps or analysis are rooms of their
    own, and so are FACTS."""
    if module in FACTS:
        return f"{module}: facts"
    is_package = any(other.startswith(f"{module}.") for other in MODULES)
    return module if is_package or module.count(".") == 1 else module.rpartition(".")[0]


def test_no_import_runs_back_up():
    back = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.split(".")[0] != other.split(".")[0]
        and not other.startswith(ALLOWED[name.split(".")[0]])
    ]
    assert not back


def test_neither_modules_nor_rooms_import_in_a_circle():
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the circle
    rooms: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        between = {room(other) for other in others} - {room(name)}
        rooms.setdefault(room(name), set()).update(between)
    list(TopologicalSorter(rooms).static_order())


def test_modules_are_short_and_do_more_than_forward():
    for name, tree in MODULES.items():
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert len(path.read_text().splitlines()) <= MOST_LINES, name
        own = [n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom | ast.Expr)]
        assert own or path.name == "__init__.py", f"{name} has nothing of its own"


def test_each_folder_says_what_belongs_in_it():
    for name, tree in MODULES.items():
        assert ast.get_docstring(tree), name


def test_the_table_of_rooms_has_every_package_and_folder():
    """`a/b`, `c` are siblings in a row, `a/b`: `c` has c inside of b."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    told = set()
    for cell in re.findall(r"^\| (`[^|]*) \|", text.partition("## Contracts")[0], re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        above = first if ":" in cell else first.rpartition("/")[0]
        told |= {first.rstrip("/"), *(f"{above}/{name}".strip("/") for name in others)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = [p.removeprefix("metaphase.") for p in project["tool"]["setuptools"]["packages"]]
    folders = {path.name for path in ROOT.iterdir() if (path / "README.md").is_file()}
    assert {room.replace(".", "/") for room in rooms} <= told
    assert folders | {"cluster", "docs", "notebooks", "tests"} <= told
    assert not [room for room in told if not (ROOT / room).exists()]


def test_every_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    packages = {f"metaphase.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
                for top in ("core", "sweeps", "analysis")
                for path in (ROOT / top).rglob("__init__.py")}  # fmt: skip
    assert listed == packages | {"metaphase"}
