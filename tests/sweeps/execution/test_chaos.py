"""A few events at random moments; `python -m tests.tools.chaos` does many."""

import pytest

from tests.tools import chaos


def test_a_command_that_trains_by_itself_is_killed(capsys):
    arguments = ["--executor", "local", "--kills", "1", "--fate", "all killed at once"]
    assert chaos.main([*arguments, "--steps", "600"]) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_proposes_the_same(capsys):
    arguments = ["--executor", "local", "--kills", "4", "--seed", "2", "--search"]
    assert chaos.main([*arguments, "--steps", "3000"]) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_is_killed_at_once(capsys):
    arguments = ["--kills", "1", "--fate", "all killed at once", "--steps", "1500"]
    assert chaos.main(arguments) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_few_kills(capsys):
    assert chaos.main(["--kills", "5", "--seed", "3", "--steps", "4000"]) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_and_trees_stopped_until_others_took_over(capsys):
    assert chaos.main(["--kills", "8", "--seed", "11", "--steps", "12000"]) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_few_kills_over_a_failing_s3(capsys):
    pytest.importorskip("moto.server")
    assert chaos.main(["--kills", "5", "--seed", "5", "--steps", "8000", "--s3"]) == 0
    assert "none lost, none twice, all numbers bit-equal" in capsys.readouterr().out
