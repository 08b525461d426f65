"""Distances of models to predictors, and the columns that tables have of them."""

import math

import pytest
import torch

from metaphase.core.cell import Cell
from metaphase.core.evaluation.distances import by_position, distances
from metaphase.core.evaluation.predictions import Predicted
from metaphase.core.problem import Classes, Reals
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer

E, T, C = 40, 3, 4
DRAW = torch.Generator().manual_seed(0)


def probabilities():
    return torch.rand(E, T, C, generator=DRAW, dtype=torch.float64).softmax(dim=-1)


def of_classes(model, m, g):
    y = torch.randint(C, (E, T), generator=DRAW)
    said = Predicted(y, {"memorizing": m.float(), "generalizing": g.float()})
    return distances(Classes(C), model.log().float(), said), y


def test_divergences_are_symmetrized_in_nats():
    model, m, g = probabilities(), probabilities(), probabilities()
    found, y = of_classes(model, m, g)
    expected = [
        sum(
            (p * (p / q).log()).sum().item() / 2 + (q * (q / p).log()).sum().item() / 2
            for p, q in zip(model[e], m[e], strict=True)
        )
        / T
        for e in range(E)
    ]
    assert found.value_E["distance_memorizing"].tolist() == pytest.approx(expected, abs=1e-6)
    right = m.gather(-1, y[..., None])[..., 0]
    assert found.plain["loss_memorizing"] == pytest.approx(-right.log().mean().item(), abs=1e-6)
    both = found.value_E["distance_memorizing"] - found.value_E["distance_generalizing"]
    assert torch.equal(found.value_E["distance_difference"], both)


@pytest.mark.parametrize("w", [0.0, 0.125, 0.7, 1.0])
def test_a_point_on_the_line_is_found(w):
    m, g = probabilities(), probabilities()
    found, _ = of_classes((1 - w) * m + w * g, m, g)
    assert found.plain["relative_distance"] == pytest.approx(w, abs=1e-4)
    assert found.plain["off_line"] == pytest.approx(0.0, abs=1e-8)
    y_ExTx1 = torch.randn(E, T, 1, generator=DRAW)
    m, g = (torch.randn(E, T, 1, generator=DRAW) for _ in range(2))
    said = Predicted(y_ExTx1.double(), {"memorizing": m, "generalizing": g})
    found = distances(Reals(1, 1.0), (1 - w) * m + w * g, said)
    assert found.plain["relative_distance"] == pytest.approx(w, abs=1e-5)
    assert found.plain["off_line"] == pytest.approx(0.0, abs=1e-9)
    assert found.value_E["distance_between"].mean() == pytest.approx(
        (m - g).square().mean().item(), rel=1e-5
    )


def test_off_the_line_the_nearest_point_is_the_least_of_all():
    model, m, g = probabilities(), probabilities(), probabilities()
    found, _ = of_classes(model, m, g)

    def apart(w):
        q = (1 - w) * m + w * g
        return ((model - q) * (model / q).log()).sum(dim=-1).mean().item() / 2

    grid = [apart(i / 1000) for i in range(1001)]
    least = min(range(1001), key=grid.__getitem__)
    assert found.plain["relative_distance"] == pytest.approx(least / 1000, abs=2e-3)
    assert found.plain["off_line"] == pytest.approx(grid[least], abs=1e-6)


def test_the_error_of_the_relative_distance_is_that_of_repetitions():
    """Models that are a noisy point on the line: the deviation of w over samples is its error."""
    found = []
    for _ in range(400):
        m, g = (torch.randn(E, T, 1, generator=DRAW) for _ in range(2))
        noise = 0.5 * torch.randn(E, 1, 1, generator=DRAW)  # the same at all positions
        said = Predicted(m.double(), {"memorizing": m, "generalizing": g})
        plain = distances(Reals(1, 1.0), 0.6 * m + 0.4 * g + noise, said).plain
        found.append((plain["relative_distance"], plain["relative_distance_se"]))
    w, error = torch.tensor(found).T
    assert w.mean().item() == pytest.approx(0.4, abs=4 * w.std().item() / 20)
    assert error.mean().item() == pytest.approx(w.std().item(), rel=0.15)


def test_where_m_and_g_coincide_nothing_is_said():
    model, m = probabilities(), probabilities()
    for g in (m, (m + 1e-5 * probabilities()) / (1 + 1e-5)):
        found, _ = of_classes(model, m, g)
        assert found.plain["relative_distance"] is found.plain["relative_distance_se"] is None
        assert found.plain["off_line"] == pytest.approx(
            found.value_E["distance_memorizing"].mean().item(), abs=1e-4
        )


def test_positions_average_to_the_whole():
    model, m, g = probabilities(), probabilities(), probabilities()
    y = torch.randint(C, (E, T), generator=DRAW)
    said = Predicted(y, {"memorizing": m.float(), "generalizing": g.float()})
    whole = distances(Classes(C), model.log().float(), said)
    rows = by_position(Classes(C), model.log().float(), said)
    assert len(rows) == T
    for name in ("distance_memorizing", "distance_between"):
        mean = sum(row[name] for row in rows) / T
        assert mean == pytest.approx(whole.value_E[name].mean().item())
    assert set(rows[0]) == {
        *("loss", "loss_memorizing", "loss_generalizing", "relative_distance"),
        *("distance_memorizing", "distance_generalizing", "distance_between"),
    }


REGRESSION = {"task_family": "linear_regression", "dimension": 2, "sequence_length": 4}
URNS = {
    **{"task_family": "balls_and_urns", "symbols": 3, "sequence_length": 5},
    "token_format": "shifted",
}
CHAINS = {
    **{"task_family": "markov_chains", "states": 3, "sequence_length": 5},
    "token_format": "shifted",
}
ITEMS = {"task_family": "noisy_items", "sequence_length": 4}
FAMILIES = {"regression": REGRESSION, "urns": URNS, "chains": CHAINS, "items": ITEMS}


def cells(settings, *tasks):
    small = {
        **{"model_size": 8, "num_layers": 1, "steps": 4, "eval_every": 2, "batch_size": 8},
        **{"eval_sequences": 16, "learning_rate": 0.01, "warmup_steps": 0},
    }
    return [Cell.from_dict({**settings, **small, "num_tasks": n}) for n in tasks]


@pytest.mark.parametrize("settings", FAMILIES.values(), ids=FAMILIES)
def test_a_checkpoint_with_what_predictors_tell_is_one_to_go_on_from(settings):
    """Also where M isn't told (2^21 tasks) or coincides with G, so that columns are null."""
    tasks = (2, 2**21) if settings is not ITEMS else (2, 300)
    trainer = PackTrainer(cells(settings, *tasks))
    trainer.advance()
    untold = []
    for cell, state in zip(trainer.cells, trainer.states(), strict=True):
        check_state(cell, state)
        row = state["history"][0]
        untold += [value is None for value in row.values()]
        for name, wrong in (("distance_memorizing", "0.1"), ("loss_generalizing", b"1")):
            rows = [{**row, name: wrong}, *state["history"][1:]]
            with pytest.raises(ValueError, match="what is no number"):
                check_state(cell, {**state, "history": rows})
        rows = [{**row, "colour": 1.0}, *state["history"][1:]]
        with pytest.raises(ValueError, match="none of this cell's"):
            check_state(cell, {**state, "history": rows})
    assert any(untold) == (settings is not ITEMS)


def finished(*of, **more):
    trainer = PackTrainer(of, **more)
    while not trainer.finished:
        trainer.advance()
    return trainer


@pytest.mark.parametrize("settings", [REGRESSION, URNS], ids=["regression", "urns"])
def test_alone_packed_and_continued_cells_have_the_same_columns(settings):
    few, more, fresh = cells(settings, 2, 300, 2**21)
    packed = finished(more, few, fresh)
    for cell in (few, more, fresh):
        alone, place = finished(cell), packed.cells.index(cell)
        assert alone.history[0] == packed.history[place]
        assert alone.results()[0][1] == packed.results()[place][1]
    half = PackTrainer([more])
    half.advance()
    rest, whole = finished(more, states=half.states()), packed.cells.index(more)
    assert rest.history[0] == packed.history[whole]
    assert rest.results()[0][1] == packed.results()[whole][1]
    row = packed.results()[packed.cells.index(few)][0]
    last = {r["split"]: r for r in packed.history[packed.cells.index(few)][-3:]}
    for name in ("distance_memorizing", "distance_between_se", "relative_distance", "loss_oracle"):
        assert row[f"unseen_{name}"] == last["unseen"][name] is not None
    untold = packed.history[packed.cells.index(fresh)][-1]
    assert untold["distance_memorizing"] is untold["relative_distance"] is None
    assert untold["distance_generalizing"] > 0


def test_models_are_the_same_with_and_without_predictors(monkeypatch):
    [cell] = cells(REGRESSION, 3)
    beside = finished(cell)
    monkeypatch.setattr("metaphase.core.evaluation.predictions.Predictions.of", lambda *_: None)
    alone = finished(cell)
    assert torch.equal(beside.states()[0]["theta"], alone.states()[0]["theta"])
    for with_, without in zip(beside.history[0], alone.history[0], strict=True):
        assert {name: with_[name] for name in without} == without


def test_a_diverged_cell_has_no_distances():
    [cell] = cells({**REGRESSION}, 3)
    sick = Cell.from_dict({**cell.to_dict(), "learning_rate": 1e30})
    row = finished(sick).results()[0][0]
    assert row["status"] == "diverged"
    assert math.isnan(row["unseen_distance_memorizing"])
    assert math.isnan(row["unseen_relative_distance"])
