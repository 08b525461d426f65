"""Predictors of the families: against brute force in float64, and against each other on the prior
that each is best on."""

import functools
import itertools
import math

import pytest
import torch

from metaphase.core.cell import Cell, ConfigError
from metaphase.core.evaluation import posterior, predictions
from metaphase.core.evaluation.posterior import posterior_means
from metaphase.core.evaluation.predictions import Predictions
from metaphase.core.predictors import FromContext, FromTask, FromTasks
from metaphase.core.problem import Classes
from metaphase.core.tasks.sequences import open_sequences

REGRESSION = {"task_family": "linear_regression", "dimension": 3, "sequence_length": 6}
URNS = {
    **{"task_family": "balls_and_urns", "symbols": 4, "sequence_length": 9},
    "token_format": "shifted",
}
MARKOV = {
    **{"task_family": "markov_chains", "states": 3, "sequence_length": 7},
    "token_format": "shifted",
}
SIMULATED = 2048
FAMILIES = pytest.mark.parametrize(
    "settings", [REGRESSION, URNS, MARKOV], ids=["regression", "urns", "markov"]
)


def opened(settings, tasks=5, count=12, **more):
    """A family's sequences with so many seen tasks, and what its predictors say of them."""
    cell = Cell.from_dict({**settings, "num_tasks": tasks, "seed": 3, **more})
    sequences = open_sequences([cell], "data", "cpu")
    return sequences, Predictions.of(sequences, count)


@functools.cache
def simulated(family):
    """Many sequences of 4 seen tasks, and of as many new ones as there are sequences."""
    [settings] = [s for s in (REGRESSION, URNS, MARKOV) if s["task_family"] == family]
    return opened(settings, tasks=4, count=SIMULATED)


def drawn(sequences, split, count=12):
    batch = sequences.evaluation_batch(split, torch.arange(count))
    y = batch.y_RxBxT[0]
    return batch.x_RxBxTxX[0].double(), y.double() if y.is_floating_point() else y


def parameters(sequences, tasks):
    return sequences.family.parameters(sequences.tasks(0, torch.arange(tasks))).double()


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_memorizing_regression_is_bayes_rule_over_the_tasks(split):
    sequences, said = opened(REGRESSION)
    (x, y), w_nxX = drawn(sequences, split), parameters(sequences, 5)
    for b in range(12):
        for t in range(6):
            weights = []
            for w in w_nxX:  # densities of the pairs before, one by one
                off = [(y[b, j, 0] - w @ x[b, j]).item() for j in range(t)]
                weights.append(math.prod(math.exp(-(e**2) / (2 * 0.25)) for e in off))
            expected = sum(q * (w @ x[b, t]).item() for q, w in zip(weights, w_nxX, strict=True))
            got = said(split)[0].of["memorizing"][b, t, 0].item()
            assert got == pytest.approx(expected / sum(weights), rel=1e-5, abs=1e-6)


def test_generalizing_regression_is_ridge_with_the_noise_as_penalty():
    sequences, said = opened(REGRESSION)
    x, y = drawn(sequences, "unseen")
    for b in range(12):
        for t in range(6):
            X, Y = x[b, :t], y[b, :t, 0]
            w = torch.linalg.solve(X.T @ X + 0.25 * torch.eye(3, dtype=torch.float64), X.T @ Y)
            got = said("unseen")[0].of["generalizing"][b, t, 0].item()
            assert got == pytest.approx((w @ x[b, t]).item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_memorizing_urns_is_bayes_rule_over_the_urns(split):
    sequences, said = opened(URNS)
    (_, y), p_nxC = drawn(sequences, split), parameters(sequences, 5)
    for b in range(12):
        for t in range(9):
            weight_n = torch.stack([p_nxC[:, c] for c in y[b, :t]] or [torch.ones(5)]).prod(dim=0)
            expected = (weight_n[:, None] * p_nxC).sum(dim=0) / weight_n.sum()
            got = said(split)[0].of["memorizing"][b, t].double()
            assert torch.allclose(got, expected.double(), rtol=1e-5, atol=1e-8)


def test_generalizing_urns_adds_one_to_each_count():
    sequences, said = opened(URNS)
    _, y = drawn(sequences, "unseen")
    for b in range(12):
        for t in range(9):
            counts = [y[b, :t].tolist().count(c) for c in range(4)]
            expected = torch.tensor([(n + 1) / (t + 4) for n in counts])
            assert torch.allclose(said("unseen")[0].of["generalizing"][b, t], expected)


def test_markov_predictors_are_those_of_their_statistics():
    sequences, said = opened(MARKOV)
    for split in ("seen", "unseen"):
        (_, y), table_nxRxk = drawn(sequences, split), parameters(sequences, 5)
        of, start_nxk = said(split)[0].of, table_nxRxk[:, -1]
        for b in range(12):
            for t in range(7):
                moves = list(itertools.pairwise(y[b, :t].tolist()))
                before = y[b, :t].tolist()
                likely = [
                    math.prod([p[-1, before[0]].item(), *(p[i, j].item() for i, j in moves)])
                    if t
                    else 1.0
                    for p in table_nxRxk
                ]
                rows = [p[before[-1] if t else -1] for p in table_nxRxk]
                frequent = [math.prod(s[i].item() for i in before) for s in start_nxk]
                expected = {
                    "memorizing": mean(likely, rows),
                    "unigram_memorizing": mean(frequent, start_nxk),
                    "generalizing": torch.tensor(
                        [moves.count((before[-1], j)) + 1.0 for j in range(3)] if t else [1.0] * 3
                    ),
                    "unigram_generalizing": torch.tensor([before.count(j) + 1.0 for j in range(3)]),
                }
                for name, p_C in expected.items():
                    got = of[name][b, t].double()
                    assert torch.allclose(got, p_C.double() / p_C.sum(), rtol=1e-5), name


def mean(weights, rows):
    return sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)


def test_chains_move_by_their_matrix_and_start_where_they_stay():
    sequences, _ = opened(MARKOV, tasks=1, sequence_length=65)
    _, y = drawn(sequences, "seen", 2048)
    table = parameters(sequences, 1)[0]
    assert torch.allclose(table[-1] @ table[:-1], table[-1], atol=1e-6)
    for state in range(3):
        for after in range(3):
            here = y[:, :-1] == state
            share = (y[:, 1:][here] == after).double().mean().item()
            p = table[state, after].item()
            assert share == pytest.approx(p, abs=4 * (p * (1 - p) / here.sum().item()) ** 0.5)
        p = table[-1, state].item()
        share = (y[:, 0] == state).double().mean().item()
        assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 2048) ** 0.5)


def test_oracles_know_the_task_and_no_context_knows_nothing():
    sequences, said = opened(URNS)
    task = sequences.evaluation_tasks("unseen", torch.arange(12))[0]
    p_BxC = sequences.family.parameters(sequences.tasks(0, task))
    found = said("unseen")[0].of
    assert torch.allclose(found["oracle"], p_BxC[:, None].clamp(min=1e-9).expand(-1, 9, -1))
    assert bool((found["no_context"] == 0.25).all())
    sequences, said = opened(REGRESSION)
    x, y = drawn(sequences, "seen", 512)
    task = sequences.evaluation_tasks("seen", torch.arange(512))[0]
    w_BxX = sequences.family.parameters(sequences.tasks(0, task)).double()
    noise = y[..., 0] - (x * w_BxX[:, None]).sum(dim=-1)
    assert noise.var().item() == pytest.approx(0.25, rel=0.1)  # sequences are what oracles know
    expected = (x * w_BxX[:, None]).sum(dim=-1)[:12]
    assert torch.allclose(said("seen")[0].of["oracle"][..., 0].double(), expected, atol=1e-5)


def test_symbols_have_the_urn_s_frequencies():
    sequences, _ = opened(URNS, tasks=1, sequence_length=64)
    _, y = drawn(sequences, "seen", 4096)
    p_C = parameters(sequences, 1)[0]
    share_C = torch.stack([(y == c).double().mean() for c in range(4)])
    error_C = (p_C * (1 - p_C) / y.numel()).sqrt()
    assert bool(((share_C - p_C).abs() < 4 * error_C).all())


@FAMILIES
def test_each_is_best_on_its_own_prior(settings):
    """Sequences of seen tasks come from M's prior and those of new tasks from G's: no other
    predictor but the oracle loses less there, and on the other's it loses more."""
    sequences, said = simulated(settings["task_family"])
    target = sequences.problem.target

    def loss_B(split, name):
        at = said(split)[0]
        if isinstance(target, Classes):
            return -at.of[name].double().gather(-1, at.y[..., None])[..., 0].log().mean(dim=1)
        return (at.of[name].double() - at.y).square().mean(dim=(1, 2))

    for split, best, other in (
        ("seen", "memorizing", "generalizing"),
        ("unseen", "generalizing", "memorizing"),
    ):
        for worse in (other, "no_context"):
            more_B = loss_B(split, worse) - loss_B(split, best)
            assert more_B.mean() > 4 * more_B.std() / math.sqrt(len(more_B))
        less_B = loss_B(split, best) - loss_B(split, "oracle")
        assert less_B.mean() > 4 * less_B.std() / math.sqrt(len(less_B))


@FAMILIES
def test_no_weighting_of_the_two_loses_less_than_the_best(settings):
    """A stricter test of the same: the loss of a mixture of M and G has its least at M on seen
    tasks and at G on new ones, so its slope there isn't downwards."""
    sequences, said = simulated(settings["task_family"])
    for split, best, other in (
        ("seen", "memorizing", "generalizing"),
        ("unseen", "generalizing", "memorizing"),
    ):
        at = said(split)[0]
        p, q = (at.of[name].double() for name in (best, other))
        if isinstance(sequences.problem.target, Classes):
            right = [t.gather(-1, at.y[..., None])[..., 0] for t in (p, q)]
            slope_B = (1 - right[1] / right[0]).mean(dim=1)  # of -log((1 - w) p + w q) at w = 0
        else:
            slope_B = (2 * (p - at.y) * (q - p)).mean(dim=(1, 2))
        assert slope_B.mean() > -4 * slope_B.std() / math.sqrt(len(slope_B))
        assert slope_B.mean() < 4 * slope_B.std() / math.sqrt(len(slope_B))  # nor upwards


@FAMILIES
def test_tasks_in_chunks_give_what_all_at_once_do(settings, monkeypatch):
    _, whole = opened(settings, tasks=300)
    expected = whole("unseen")[0].of["memorizing"]
    monkeypatch.setattr(predictions, "TASKS_AT_ONCE", 7)
    monkeypatch.setattr(posterior, "TASKS_AT_ONCE", 7)
    monkeypatch.setattr(posterior, "_ROWS_AT_ONCE", 5)
    _, parts = opened(settings, tasks=300)
    assert torch.allclose(parts("unseen")[0].of["memorizing"], expected, rtol=1e-6, atol=1e-8)


def test_log_likelihoods_of_any_size_are_added_up():
    """Later tasks may be more likely than all before by more than float64's range, or less."""
    for logs in ([0.0, 2000.0, 1990.0, -5000.0], [2000.0, 0.0], [-3000.0, -3001.0], [1.0] * 700):
        k_nx1 = torch.tensor(logs, dtype=torch.float64)[:, None]
        g_nx1 = torch.arange(1.0, len(logs) + 1, dtype=torch.float64)[:, None]
        chunks = zip(k_nx1.split(1), g_nx1.split(1), strict=True)
        [[mean]] = posterior_means(torch.ones(1, 1, dtype=torch.float64), chunks).tolist()
        expected = (k_nx1[:, 0].softmax(dim=0) * g_nx1[:, 0]).sum().item()
        assert mean == pytest.approx(expected, rel=1e-12)


def test_a_position_that_is_not_a_number_spoils_no_other():
    draw = torch.Generator().manual_seed(0)
    s, k, g = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in (6, 30, 30))
    s[2, 0] = math.nan
    means = posterior_means(s, zip((3.0 * k).split(10), g.split(10), strict=True))
    assert means[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    expected = (s[others] @ (3.0 * k).mT).softmax(dim=1) @ g
    torch.testing.assert_close(means[others], expected, rtol=1e-12, atol=1e-12)


@FAMILIES
def test_predictions_do_not_look_ahead(settings):
    sequences, _ = opened(settings)
    family = sequences.family
    x, y = drawn(sequences, "seen")
    theta_nxP = parameters(sequences, 12)

    def said(x, y):
        for name, predictor in family.predictors().items():
            if isinstance(predictor, FromContext):
                yield name, predictor.predict(x, y)
            elif isinstance(predictor, FromTask):
                yield name, predictor.predict(theta_nxP, x, y)
            else:
                assert isinstance(predictor, FromTasks)
                chunk = (predictor.natural(theta_nxP), predictor.moments(theta_nxP))
                means = posterior_means(predictor.statistics(x, y).flatten(0, 1), [chunk])
                yield name, predictor.predict(means.unflatten(0, y.shape[:2]), x, y)

    later = y.clone()
    later[:, 4:] = later[:, 4:].flip(0) + (0 if later.dtype == torch.int64 else 1.0)
    after_x = x.clone()
    after_x[:, 5:] += 1.0
    changed = dict(said(after_x, later))
    for name, before in said(x, y):
        assert torch.equal(before[:, :5], changed[name][:, :5]), name


@pytest.mark.parametrize("variance", [1e-9, 1e9])
def test_the_least_and_the_most_noise_have_predictions(variance):
    """Far less leaves nothing that ridge can invert, far more no finite weights."""
    _, said = opened(REGRESSION, noise_variance=variance)
    assert all(bool(y.isfinite().all()) for y in said("unseen")[0].of.values())
    for beyond in (variance**3, variance**20):
        with pytest.raises(ConfigError, match=r"noise_variance: .* is out of range; allowed"):
            opened(REGRESSION, noise_variance=beyond)


@FAMILIES
def test_sequences_in_chunks_give_what_all_at_once_do(settings, monkeypatch):
    """Where each has so many statistics that not all have room."""
    _, whole = opened(settings)
    expected = whole("unseen")[0].of
    monkeypatch.setattr(predictions, "_MOST_STATISTICS", 1)
    sizes, examples = set(), Predictions._examples

    def watched(self, split, stream, sequence_B):
        sizes.add(len(sequence_B))
        return examples(self, split, stream, sequence_B)

    monkeypatch.setattr(Predictions, "_examples", watched)
    _, parts = opened(settings)
    for name, said in parts("unseen")[0].of.items():
        torch.testing.assert_close(said, expected[name], rtol=1e-6, atol=1e-6)
    assert sizes == {1}
