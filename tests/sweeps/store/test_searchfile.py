"""The file of a search's rounds, in which anybody may have written anything."""

import json

import pytest

from metaphase.sweeps.store.searchfile import NAME, Round, read_rounds, write_rounds
from metaphase.sweeps.store.storage import Storage

ID = "0123456789abcdef"
STANDING = {
    "phase": "generalizing", "row": "model_size 8", "low": 1.5, "middle": 2.0, "high": None,
    "width": 3.25, "done": False,
}  # fmt: skip


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path), "sweep")


def test_rounds_are_read_as_they_were_written(storage):
    assert read_rounds(storage) == []
    rounds = [Round({ID: 0.0, "other-cell": 1.25}, [STANDING]), Round({}, [STANDING], "the end")]
    write_rounds(storage, rounds)
    assert read_rounds(storage) == rounds


def round_with(octaves=f'{{"{ID}": 1.0}}', reason='""', **changed):
    standing = ", ".join(
        f'"{key}": {changed.get(key, json.dumps(value))}' for key, value in STANDING.items()
    )
    said = f'"octaves": {octaves}, "standings": [{{{standing}}}], "reason": {reason}'
    return f'{{"rounds": [{{{said}}}]}}'


@pytest.mark.parametrize(
    "text",
    [
        '{"rounds": [{"octaves": {}, "standings": [{}]}]}',
        '{"rounds": [{"octaves": {}, "standings": 5}]}',
        '{"rounds": [{"octaves": {}, "standings": "abc"}]}',
        '{"rounds": [{"octaves": 5, "standings": []}]}',
        '{"rounds": {"a": 1}}',
        "[" * 200_000,
        "\ufeff{}",
        round_with(low='"x"'),
        round_with(high="1e400"),
        round_with(middle="1" + "0" * 400),
        round_with(low="-1e300"),
        round_with(width="1e300"),
        round_with(octaves=f'{{"{ID}": 1e9}}'),
        round_with(width="null"),
        round_with(width="true"),
        round_with(done="0"),
        round_with(phase="5"),
        round_with(row="null"),
        round_with(reason="5"),
        round_with(octaves=f'{{"{ID}": NaN}}'),
        round_with(octaves=f'{{"{ID}": "1.0"}}'),
        round_with(octaves=f'{{"{ID}": 1{"0" * 400}}}'),
        round_with(octaves=f'{{"{ID}": {"1" * 5000}}}'),
        round_with(octaves='{"../x": 1.0}'),
        round_with(octaves=r'{"\u001b[2J": 1.0}'),
    ],
)
def test_what_is_no_search_begins_anew_in_one_line(text, storage, caplog):
    storage.put(NAME, text.encode())
    assert read_rounds(storage) == []
    [record] = caplog.records
    said = record.getMessage()
    assert said.startswith(f"{storage}/{NAME} can't be read and begins anew: ")
    assert said.isprintable()


def test_texts_do_not_control_the_terminal(storage):
    storage.put(NAME, round_with(row=r'"\u0007"', reason=r'"\u001b]0;x"').encode())
    [one] = read_rounds(storage)
    assert (one.standings[0]["row"], one.reason) == ("\\x07", "\\x1b]0;x")
