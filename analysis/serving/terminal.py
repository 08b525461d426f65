"""A snapshot in a terminal: maps in letters and colours, where phases begin, what is training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from metaphase.analysis import labels, transition_text
from metaphase.analysis.figures import text_map
from metaphase.analysis.serving.snapshot import IN_TRAINING, MISSING, Condition, Snapshot
from metaphase.analysis.statistics import phases
from metaphase.core import schema
from metaphase.core.phases import PHASES
from metaphase.sweeps.store.folders import shown

TRAINING = "~"  # the mark of a grid point of which nothing is finished and something in training
_LOOKS = {
    "G": "bold bright_green",
    "I": "bold bright_blue",
    "M": "bold yellow",
    "U": "bright_black",
    TRAINING: "bold magenta",
    text_map.UNFINISHED: "bold red",
}
_MOST_NOTES = 5


class Screen:
    """A snapshot as rich draws it.

    Args:
        found: what is drawn; None: there is nothing yet.
        line: what there is to say beside it, such as that the storage fails.
        fit: whether conditions are left out that are more than the terminal is high.
    """

    def __init__(self, found: Snapshot | None, line: str = "", fit: bool = False):
        self._found, self._line, self._fit = found, line, fit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = [_text(self._line, "bold red" if self._found else "bold")] if self._line else []
        if self._found is None:
            yield Group(*line)
            return
        conditions = self._found.conditions
        parts = [[*_head(self._found), *line]]
        parts += [list(_condition(self._found, one, options.max_width)) for one in conditions]
        if not self._fit:
            yield from (line for part in parts for line in part)
            return
        room = console.size.height
        for number, part in enumerate(parts):
            left = len(conditions) - number  # after this part
            heights = [len(line.wrap(console, options.max_width)) for line in part]
            if sum(heights) + (left > 0) <= room:  # with a line on those that are left
                room -= sum(heights)
                yield from part
                continue
            # Of the head and the first condition there is what has room.
            fitting = sum(1 for total in accumulate(heights) if total < room) if number < 2 else 0
            yield from part[:fitting]
            yield _more(left + (number > 0 and fitting < 2))  # its first line is empty
            return


def _more(conditions: int) -> Text:
    """Instead of what there is no room for: how many conditions aren't shown at all."""
    words = f"{conditions} more condition{'s' if conditions > 1 else ''}" if conditions else "more"
    return Text(f"{words}; --once prints all", "bright_black", no_wrap=True, overflow="ellipsis")


def _head(found: Snapshot) -> Iterator[Text]:
    grid, cells = found.grid, found.cells
    title = Text(shown(grid.name), "bold")
    if grid.description:
        title.append(f": {shown(grid.description)}", "none")
    title.no_wrap, title.overflow = True, "ellipsis"
    yield title
    counts = Counter(cells["status"])
    words = (schema.DONE, schema.DIVERGED, schema.FAILED, IN_TRAINING)
    parts = [f"{counts[word]} {word}" for word in words if counts[word]]
    done = len(cells) - counts[MISSING] - counts[IN_TRAINING]
    at = time.strftime("%H:%M:%S", time.localtime(found.at))
    yield _text(f"{done}/{len(cells)} cells  {', '.join(parts) or 'none finished'}  at {at}")
    if grid.by:
        left = "" if grid.seconds_left is None else f"about {duration(grid.seconds_left)} left; "
        yield _text(f"running, {left}{grid.by}".replace("running, by", "running by"), "magenta")
    elif counts[MISSING]:
        yield _text("nobody runs it now", "bright_black")
    for pack in grid.packs:
        yield _text(f"  {pack}", "magenta")
    for note in found.notes[:_MOST_NOTES]:
        yield _text(f"note: {note}", "yellow")
    if len(found.notes) > _MOST_NOTES:
        yield _text(f"and {len(found.notes) - _MOST_NOTES} more notes", "yellow")


def _condition(found: Snapshot, condition: Condition, width: int) -> Iterator[Text]:
    cells = condition.cells
    yield Text()
    words = [shown(word) for word in labels.condition_words(condition.settings)]
    unfinished = cells["status"].isin((IN_TRAINING, MISSING))
    finished = cells[~unfinished]
    done = finished[finished["status"] == schema.DONE]
    by_phase = done["phase"].value_counts()
    counts = ", ".join(f"{by_phase[p]} {p}" for p in reversed(PHASES) if by_phase.get(p, 0))
    told = ", ".join(words)
    if told or counts:
        yield _text(f"{told}{': ' * bool(told and counts)}{counts}", "bold")
    marks = text_map.marks(phases.summarize_grid(finished)) if len(finished) else {}
    running = cells[cells["status"] == IN_TRAINING]
    for point in zip(running["model_size"], running["num_tasks"], strict=True):
        marks.setdefault(point, TRAINING)
    if condition.expected is not None:
        marks = text_map.expected_marks(condition.expected) | marks
    yield from _map(marks, cells, width)
    for line in transition_text.lines(condition.transitions) if len(condition.transitions) else ():
        yield _text(line)


def _map(marks: dict[tuple[int, int], str], cells: pd.DataFrame, width: int) -> Iterator[Text]:
    """The map, in several parts where the terminal is too narrow for one."""
    tasks = sorted(set(cells["num_tasks"]))
    whole = text_map.lines(marks, cells["model_size"], tasks)
    widest = max(map(len, whole[:-1]))
    at_once = len(tasks) if widest <= width else max(1, len(tasks) * width // widest - 1)
    legend = whole[-1]
    for start in range(0, len(tasks), at_once):
        part = text_map.lines(marks, cells["model_size"], tasks[start : start + at_once])
        for line in part[:-1]:
            yield _colored(line)
    if TRAINING in marks.values():
        legend += f"  {TRAINING} {IN_TRAINING}"
    yield _text(legend, "bright_black")


def _colored(line: str) -> Text:
    text = Text(line, no_wrap=True, overflow="crop")
    start = line.find("|") + 1
    for i, letter in enumerate(line) if start else ():
        if i >= start and letter in _LOOKS:
            text.stylize(_LOOKS[letter], i, i + 1)
    return text


def duration(seconds: float) -> str:
    """A time to wait for: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _text(line: str, style: str = "") -> Text:
    return Text(shown(line), style)
