"""Plain data as YAML 1.2, read and written.

PyYAML reads YAML 1.1, in which `010` is eight, `1:32` is ninety-two and `no` is false. Nothing in a
text can make it large or deep: its structure is looked at before anything is made of it.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, ClassVar

import yaml

from metaphase.core.settings import ConfigError

MAX_VALUES, MAX_DEPTH = 50_000, 20  # of a text

_MERGE = "tag:yaml.org,2002:merge"

show = reprlib.Repr()  # bounded, however deep the value: YAML aliases can nest exponentially
show.maxstring = show.maxother = 80


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain data as YAML 1.2 does: 010 is ten, 1:32, 1_000, yes and dates are texts, 1e3 is a
    number. A key that is given twice is refused (YAML would keep the last)."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}  # not those of YAML 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise ConfigError(f"{show.repr(key_node.value)}: given twice")
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)

    merged = 0  # entries that merge keys have brought, over the whole text

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolves merge keys: what they bring stands before the mapping's own entries, which
        override it, and of mappings in a list the first overrides the others. What is brought is
        counted before it is copied."""
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        merges = [value for key, value in node.value if key.tag == _MERGE]
        node.value = own  # so that a mapping merged into itself ends
        entries: list[tuple[yaml.Node, yaml.Node]] = []
        for value in merges:
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in reversed(parts):
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a merge key takes mappings", part.start_mark
                    )
                self.flatten_mapping(part)
                self.merged += len(part.value) + 1
                if self.merged > MAX_VALUES:
                    raise ConfigError(
                        f"not valid YAML: merge keys bring more than {MAX_VALUES:,} values"
                    )
                entries += part.value
        last = {k.value if isinstance(k, yaml.ScalarNode) else k: (k, v) for k, v in entries + own}
        node.value = list(last.values())


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if text[1:].isdigit() and len(text) > 4000:  # which Python doesn't read
        return 2**64  # refused like every number beyond 64 bits
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _construct_float(loader: Loader, node: yaml.ScalarNode) -> float:
    return float(
        loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    )


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads as it was, and readers of YAML 1.1 too."""


# The core schema of YAML 1.2.2, section 10.3.2, and merge keys.
for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
):
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
        )
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str) -> Any:
    """What a text says. Raises ConfigError, of one line, if it isn't YAML or is too large."""
    try:
        _check_size(text)
        return yaml.load(text, Loader=Loader)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"not valid YAML: {problem}{place}") from None
    except Exception as error:  # bad dates, numbers and nesting raise what Python raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"not valid YAML: {reason}") from None


def _check_size(text: str) -> None:
    """Looks at the text's structure before anything is made of it: libyaml recurses."""
    count = depth = 0
    for event in yaml.parse(text, Loader=Loader):
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if count > MAX_VALUES:
            raise ConfigError(f"not valid YAML: more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise ConfigError(f"not valid YAML: nested more than {MAX_DEPTH} deep")
