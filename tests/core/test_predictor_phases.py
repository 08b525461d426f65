"""The rule of phases by predictor: each answer, near its thresholds, and what can't be told."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from metaphase.core import phase_rules
from metaphase.core.phase_rules import NO_PHASE, outcome_of
from metaphase.core.predictor_phases import REASONS, decide, effects
from metaphase.core.settings import ConfigError
from tests.core.test_phases import cell_row, phase_of


def row(nearness=0.9, new=(0.02, 0.4), seen=(0.02, 0.4), improvement=0.2, between=0.3, **columns):
    """A cell with distances from (G, no context) on new tasks and (M, no context) on seen ones."""
    found = cell_row(
        n=512, unseen_last=0.3, seen_last=0.2 + improvement, seen_improvement=improvement,
        unseen_distance_difference=nearness * between, unseen_distance_difference_se=0.05 * between,
        unseen_distance_between=between,
    )  # fmt: skip
    for split, own, (near, far) in (("unseen", "generalizing", new), ("seen", "memorizing", seen)):
        for name, value in ((own, near), ("no_context", far)):
            column = f"{split}_distance_{name}"
            found |= {column: value, f"{column}_se": 0.02 * value}
    return found | columns


M_ALIKE = {"nearness": -0.9, "new": (0.3, 0.4)}
NOTHING = {"nearness": 0.2, "new": (0.4, 0.0), "seen": (0.4, 0.0), "improvement": 0.0}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "generalizing"),
        (M_ALIKE, "identifying"),
        (M_ALIKE | {"improvement": 0.0}, "memorizing"),
        (NOTHING, "untrained"),
        ({"new": (0.4, 0.3)}, "identifying"),  # nearer to G than to M, but nearest to no context:
        ({"new": (0.4, 0.3), "nearness": -0.9}, "identifying"),  # what it knows, it knows of seen
        ({"nearness": 0.3, "new": (0.2, 0.2), "seen": (0.4, 0.01)}, "untrained"),
        ({"nearness": 0.04, "seen": (0.02, 0.4)}, "identifying"),  # too little to count as nearer
    ],
)
def test_nearest_predictor_names_the_phase(columns, expected):
    assert phase_of(row(**columns)) == expected


def decided(**columns):
    numbers = {name: np.float64(value) for name, value in row(**columns).items()
               if isinstance(value, (int, float))}  # fmt: skip
    return bool(decide(numbers).decided)


def test_a_phase_is_decided_where_all_that_intervals_hold_give_it():
    assert decided()
    assert decided(**M_ALIKE)
    assert decided(**NOTHING)
    assert decided(**M_ALIKE | {"improvement": 0.0})
    assert not decided(**M_ALIKE | {"improvement": 0.05})  # memorizing or identifying
    assert not decided(nearness=0.15)  # the interval holds 0.05
    assert not decided(nearness=-0.15)
    assert not decided(nearness=0.0)
    assert not decided(nearness=0.0, unseen_distance_difference_se=0)
    assert decided(nearness=0.3)
    assert not decided(new=(0.35, 0.4))  # from G as far as from no context, nearly
    assert decided(nearness=0.0, new=(0.4, 0.0), seen=(0.4, 0.0))  # untrained whatever is nearer


def test_a_model_farther_from_both_than_they_are_apart_is_not_decided():
    assert decided(new=(0.2, 0.9), between=0.3)
    assert not decided(new=(0.4, 0.9), between=0.3)
    assert phase_of(row(new=(0.4, 0.9), between=0.3)) == "generalizing"
    assert decided(**M_ALIKE | {"new": (0.4, 0.9)})  # as far from G as 0.4, from M as 0.13


def many(new, **columns):
    """A cell with too many tasks for M, at distances from (G, no context) on new tasks."""
    of_m = ("memorizing", "difference", "between")
    lacking = dict.fromkeys(name for name in row() if any(word in name for word in of_m))
    return row(new=new) | lacking | {"num_tasks": 2**21} | columns


@pytest.mark.parametrize("rule", [None, phase_rules.by_predictors])
def test_with_too_many_tasks_for_m_nearness_to_g_decides(rule):
    """Whatever the accuracy on new tasks, which alone would make all of them generalizing."""
    for new, expected in (((0.02, 0.4), "generalizing"), ((0.4, 0.3), "untrained")):
        assert phase_of(many(new, unseen_last=0.6), rule) == expected
    columns = {k: np.array([v, v]) for k, v in many((0.4, 0.3), unseen_level=0.2).items()}
    columns |= {"unseen_distance_generalizing": np.array([0.02, 0.27])}
    found = (rule or phase_rules.by_what_is_known)(columns, 0.05, 0.99)
    assert list(found["phase"]) == ["generalizing", "untrained"]
    assert list(found["decided"]) == [True, False]
    assert np.isnan(found["unseen_nearness"]).all()
    assert np.isnan(found["seen_departure"]).all()
    no_zero = dict.fromkeys(n for n in row() if "no_context" in n)
    losses = {"seen_loss": 1.3, "unseen_loss": 1.4, "guess_loss": 1.6}
    assert phase_of(many((0.4, 0.3)) | no_zero | losses, rule) == "generalizing"
    few = many((0.4, 0.3), num_tasks=8, unseen_last=0.6)  # of a family that brings G alone
    assert phase_of(few) == "generalizing"


COINCIDE, TOO_FAR = REASONS.values()


def test_a_model_that_is_off_the_line_by_more_than_m_and_g_are_apart_is_too_far_from_both():
    """It isn't that they coincide: M on these sequences could be told from G."""
    far = {"between": 0.003, "unseen_distance_difference_se": 0.002}
    assert outcome_of(row(**far, unseen_distance_between_se=0.0003)) == TOO_FAR
    assert outcome_of(row(**far, unseen_distance_between_se=0.003)) == COINCIDE
    assert outcome_of(row(between=0.0, unseen_distance_between_se=0.0)) == COINCIDE
    assert outcome_of(row(unseen_distance_between_se=0.01)) == "generalizing"
    columns = {k: np.array([v]) for k, v in row(**far, unseen_distance_between_se=0.0003).items()}
    found = phase_rules.by_predictors(columns)
    assert (list(found["coincide"]), list(found["too_far"])) == ([False], [True])


def test_m_and_g_that_coincide_leave_the_question_without_an_answer():
    close = {"between": 0.003, "unseen_distance_difference_se": 0.002}
    assert phase_of(row(**close)) is None
    assert outcome_of(row(**close)) == COINCIDE
    assert outcome_of(row(between=0.0)) == COINCIDE
    assert not decided(**close)
    assert outcome_of(row(**NOTHING | close)) == "untrained"  # which can be told without
    assert phase_of(row(**close | {"between": 0.03})) == "generalizing"


def test_squared_distances_give_two_w_less_one_however_far_off_the_line():
    rng = np.random.default_rng(0)
    M, G, off = rng.normal(size=(3, 4000))
    off -= (off @ (G - M)) / ((G - M) @ (G - M)) * (G - M)
    for w, far in ((0.0, 0.0), (0.25, 3.0), (0.8, 1.0)):
        model = (1 - w) * M + w * G + far * off
        d_M, d_G, B = (((a - b) ** 2).mean() for a, b in ((model, M), (model, G), (M, G)))
        numbers = {"n": 512, "unseen_distance_difference": d_M - d_G, "unseen_distance_between": B}
        assert effects(numbers)["unseen_nearness"][0] == pytest.approx(2 * w - 1)


def test_without_a_predictor_of_no_context_the_loss_of_a_guess_is_asked():
    lacking = {f"{split}_distance_no_context{end}": None
               for split in ("seen", "unseen") for end in ("", "_se")}  # fmt: skip
    learned = {"seen_loss": 1.3, "unseen_loss": 1.4, "guess_loss": 1.6}
    assert phase_of(row(**lacking, **learned)) == "generalizing"
    assert phase_of(row(**lacking, **learned | {"unseen_loss": 1.7}, **M_ALIKE)) == "identifying"
    guesses = {"seen_loss": 1.6, "unseen_loss": 1.6, "guess_loss": 1.6}
    assert phase_of(row(**lacking, **guesses)) == "untrained"


@pytest.mark.parametrize(
    ("loss_of_m", "expected"), [(1.2, "memorizing"), (1.21, "memorizing"), (1.26, "identifying")]
)
def test_where_the_oracle_is_known_m_itself_says_whether_examples_are_needed(loss_of_m, expected):
    """Of 16 positions M spends 0, 0.4 and 2.4 on telling tasks apart."""
    losses = {"seen_loss_memorizing": loss_of_m, "seen_loss_oracle": 1.2}
    of_m = M_ALIKE | {"improvement": 0.05} | losses  # an accuracy that tells nothing
    assert phase_of(row(**of_m, seen_loss_no_context=1.6)) == expected
    assert decided(**of_m, seen_loss_no_context=1.6)
    assert not decided(**of_m)  # without a predictor of no context


def test_which_rule_a_row_gets_and_that_it_can_be_chosen():
    ours = row(**M_ALIKE)
    assert phase_of(ours) == "identifying"
    assert phase_of(ours, phase_rules.load("accuracy")) == "generalizing"  # 0.3 is above 1 in 5
    other = cell_row(unseen_last=0.4)
    assert phase_of(other) == "generalizing"
    assert outcome_of(other, phase_rules.load("predictors")) == NO_PHASE
    assert phase_of(ours | {"status": "diverged"}) is None
    assert phase_of(ours | {"unseen_distance_between": math.nan}) == "generalizing"  # by accuracy


MINE = '''
import numpy as np
def rule(cells, delta, confidence):
    new = np.asarray(cells["unseen_last"], dtype=float)
    return {"phase": np.where(new > 0.5, "generalizing", None), "decided": new > 0.6, "excess": new}
class Rule:
    def __call__(self, cells, delta, confidence):
        return rule(cells, delta, confidence)
def fails(cells, delta, confidence):
    raise KeyError("mine")
def odd(cells, delta, confidence):
    return rule(cells, delta, confidence) | {"phase": np.array(["clever"])}
def short(cells, delta, confidence):
    return {"phase": np.array([]), "decided": np.array([], dtype=bool)}
def lacks(cells, delta, confidence):
    return {"phase": np.array([None])}
def numbers(cells, delta, confidence):
    return rule(cells, delta, confidence) | {"decided": np.array([1.0])}
def takes(cells, delta, confidence):
    return rule(cells, delta, confidence) | {"n": np.array([1.0])}
def takes_own(cells, delta, confidence):
    return rule(cells, delta, confidence) | {"stay": np.array([1.0])}
'''  # fmt: skip


def test_a_rule_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    for name in ("rule", "Rule"):
        rule = phase_rules.load(f"mine.py:{name}", tmp_path)
        assert phase_of(cell_row(unseen_last=0.7), rule) == "generalizing"
        assert outcome_of(cell_row(unseen_last=0.4), rule) == NO_PHASE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "fails: KeyError: 'mine'"),
        ("odd", "phase is 'clever'; allowed: untrained, memorizing, identifying, generalizing, N"),
        ("short", "phase has the shape (0,); needed: (1,)"),
        ("lacks", "gives no decided"),
        ("numbers", "decided is float64; needed: bool"),
        ("takes", "n is a column of the cells already"),
        ("takes_own", "stay is a column of the cells already"),
    ],
)
def test_a_rule_that_says_something_else_is_told_in_one_line(tmp_path, name, message):
    (tmp_path / "mine.py").write_text(MINE)
    rule = phase_rules.load(f"mine.py:{name}", tmp_path)
    with pytest.raises(ConfigError) as told:  # stay is a plug-in's setting
        phase_of(cell_row(stay=0.5), phase_rules.of_callable(rule, "rule: of a caller's"))
    assert "caller" not in str(told.value)
    assert message in str(told.value)
    assert f"mine.py:{name}" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("best", "rule: 'best' is not one of accuracy, predictors, FILE.py:NAME"),
        ("none.py:rule", "can't read"),
        ("mine.py:nothing", "the file has no nothing"),
        ("mine.py:np", "is no function"),
        ("broken.py:rule", "can't be imported: ZeroDivisionError"),
    ],
)
def test_a_rule_that_cannot_be_had(tmp_path, reference, message):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=message):
        phase_rules.load(reference, tmp_path)


def test_a_rule_of_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(MINE)
    about = tmp_path / "my_rules-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[metaphase.plugins]\nrule.half = my_rules:rule\nrule.gone = my_rules:gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = phase_rules.load("half")
    assert phase_of(cell_row(unseen_last=0.7), rule) == "generalizing"
    with pytest.raises(ConfigError, match=r"rule: gone \(of my_rules:gone\) can't be imported"):
        phase_rules.load("gone")
    with pytest.raises(ConfigError, match="'third' is not one of accuracy"):
        phase_rules.load("third")


def test_thresholds_are_checked():
    for wrong in ({"delta": 1.0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="out of range"):
            phase_rules.by_predictors({k: np.array([v]) for k, v in row().items()}, **wrong)


def test_rules_are_imported_without_scipy_and_torch():
    code = "import sys, metaphase.core.phase_rules as r; print({'scipy', 'torch'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
