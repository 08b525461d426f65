"""What the file `driver` says, checked: whoever can write to the tree can write anything there."""

from __future__ import annotations

import json
import time
from typing import Any

from metaphase.sweeps.store.folders import shown

LONGEST = 10_000  # bytes of the file
# Seconds from now after which no lease ends and since when none begins: a driver's is for a minute,
# and its clock may have been ahead by hours. What says more says nothing: it could block for good.
AHEAD_SECONDS = 86_400.0


def parse_lease(data: bytes) -> dict[str, Any] | None:
    """Returns the lease that `sweeps.store.lease` wrote, with values of the types that they have
    there, or None if the file is empty or holds something else. A time that can't be is 0, so that
    the lease is over."""
    try:
        lease = json.loads(data) if len(data) <= LONGEST else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(lease, dict):
        return None
    driver = lease.get("driver")
    if not isinstance(driver, str) or not driver:
        return None
    plain = {k: v for k, v in lease.items() if isinstance(v, (str, int, float))}
    texts = {k: shown(str(plain.get(k, "")))[:200] for k in ("host", "machine", "born")}
    times = {k: _seconds(plain.get(k)) for k in ("since", "expires")}
    pid = plain.get("pid")
    pid = pid if type(pid) is int and 0 < pid < 2**31 else 0
    return {**plain, **texts, **times, "pid": pid, "stop": plain.get("stop") is True}


def _seconds(value: Any) -> float:
    """Returns a time in seconds since 1970, or 0 if it isn't one from then until a day after
    now."""
    if type(value) not in (int, float) or not 0 <= value <= time.time() + AHEAD_SECONDS:
        return 0.0
    return float(value)
