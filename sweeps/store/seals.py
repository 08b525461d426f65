"""The seal of a cell's Parquet files: what planning has to know of the rows, and a digest of the
whole file, in the file's own footer.

A file whose digest is right holds, byte for byte, what was found sound and was written, so planning
needn't decode it: that takes 30 times as long, and a sweep has three files a cell. Any other file,
without a seal, damaged, or written anew by somebody else, is decoded and looked through.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_KEY = "metaphase.seal"
_UNSIGNED = "0" * 32
# A footer has keys and values as Thrift's compact protocol writes texts: a type, their length in
# bytes of which all but the last have the highest bit, and their characters.
_VALUE = re.compile(rb"\x18[\x80-\xff]{0,4}[\x00-\x7f]([0-9a-f]{32})\{")


def entry(facts: Mapping[str, Any]) -> dict[str, str]:
    """The footer's entry, still unsigned, for a file of rows of which these facts hold: texts,
    numbers, lists of them."""
    return {_KEY: _UNSIGNED + json.dumps(facts)}


def signed(data: bytes) -> bytes:
    """The file with the digest in its footer's entry."""
    start = _digest_at(data)
    if start is None:
        raise ValueError("the file has no entry for a seal")
    return data[:start] + _digest(data, start) + data[start + len(_UNSIGNED) :]


def facts_of(data: bytes) -> dict[str, Any] | None:
    """The facts about the rows of a file; None if it has no seal, or isn't what was sealed. Anybody
    can seal a file, so they may say anything."""
    start = _digest_at(data)
    if start is None or data[start : start + len(_UNSIGNED)] != _digest(data, start):
        return None
    text = data[start + len(_UNSIGNED) :].decode("latin-1")
    try:
        facts = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):  # no JSON, or too deep
        return None
    return facts if isinstance(facts, dict) else None


def _digest_at(data: bytes) -> int | None:
    """Where the digest stands, in the last entry of the file; values may contain the key too."""
    key = _KEY.encode()
    at = data.rfind(key)
    while at >= 0:
        found = _VALUE.match(data, at + len(key))
        if found:
            return found.start(1)
        at = data.rfind(key, 0, at)
    return None


def _digest(data: bytes, start: int) -> bytes:
    """Of all bytes but the digest's own."""
    digest = hashlib.blake2b(data[:start], digest_size=len(_UNSIGNED) // 2)
    digest.update(data[start + len(_UNSIGNED) :])
    return digest.hexdigest().encode()
