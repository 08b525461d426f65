"""Kept models: what is written is what is read, and what is damaged is nobody's model."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch

from metaphase.core.cell import ConfigError
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.commands.status import report
from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings
from tests.conftest import small_cell

CELL = small_cell(unseen_datasets=("digits",), steps=12, eval_sequences=20)


@pytest.fixture(scope="module")
def trainer():
    trainer = PackTrainer([CELL, small_cell(unseen_datasets=("digits",), steps=12, seed=3,
                                            eval_sequences=20)])  # fmt: skip
    while not trainer.finished:
        trainer.advance()
    return trainer


@pytest.fixture
def results(tmp_path, trainer):
    results = Results(str(tmp_path), "sweep")
    results.models.write(CELL, trainer.states()[0])
    return results


def same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        equal = torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
        assert equal, key


def test_a_state_comes_back_to_the_bit_and_any_reader_reads_the_file(results, trainer):
    cell, state = results.models.read(CELL.cell_id, 12)
    assert cell == CELL
    same(state, trainer.states()[0])
    again = PackTrainer([CELL], states=[state])
    assert again.results()[0] == trainer.results()[0]
    assert results.models.steps() == {CELL.cell_id: [12]}
    path = results.local_path / "models" / CELL.cell_id / "12.safetensors"
    tensors = safetensors.numpy.load_file(path)
    head = trainer.stacks[0].parameters["head"].detach().numpy()[0]
    assert np.array_equal(tensors["head"], head)
    assert np.any(tensors["adam.moment2.head"] > 0)
    before = path.read_bytes()
    results.models.write(CELL, trainer.states()[0] | {"wall_seconds": 9.0})  # late, or again
    assert path.read_bytes() == before


def test_a_loaded_model_predicts_what_the_results_say(results, trainer):
    model = results.models.load(CELL.cell_id)
    row, curves = trainer.results()[0]
    for split in ("seen", "unseen", "unseen/digits"):
        x, y = model.sequences(split, range(CELL.eval_sequences))
        assert x.shape == (20, CELL.sequence_length, CELL.input_size)
        logits = model.predict(x, y)
        right = (logits.argmax(-1) == y).double().mean(dim=0)
        told = [point["accuracy"] for point in curves if point["split"] == split]
        assert right.tolist() == pytest.approx(told, abs=1e-7)
        if split == "unseen":
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            assert loss.item() == pytest.approx(row["unseen_loss"], rel=1e-5)
    model.weights["head"].zero_()
    assert (model.predict(x, y) == 0).all()
    assert (model.predict(x.double().numpy(), y.int().numpy()) == 0).all()
    for wrong in ((x[:, 1:], y[:, 1:]), (x, y + CELL.num_classes), (x, y / 1), (x[0, 0, 0], y)):
        with pytest.raises(ConfigError, match="allowed:"):
            model.predict(*wrong)
    with pytest.raises(ConfigError, match="not two tensors"):
        model.activations(None, y)


@pytest.mark.parametrize(
    ("split", "numbers", "message"),
    [
        ("unsen", [0], "split: 'unsen' is not one of train, seen, unseen, unseen/digits, in_wei"),
        ("unseen/MNIST", [0], "is not one of"),
        *(("seen", n, "numbers: .*; allowed: whole") for n in ([], [-1], [0.5], [2**40], "ab")),
    ],
)
def test_sequences_that_there_are_not_are_refused(results, split, numbers, message):
    with pytest.raises(ConfigError, match=message):
        results.models.load(CELL.cell_id).sequences(split, numbers)


def test_what_is_not_kept_is_said_in_one_line(results):
    for cell_id, step in (("0" * 16, None), ("../" * 5, None), (CELL.cell_id, 11)):
        with pytest.raises(ConfigError, match="--keep-models") as error:
            results.models.load(cell_id, step)
        assert "\n" not in str(error.value)


def flip(data):
    data[-1] ^= 1


def cut(data):
    del data[-8:]


def empty(data):
    data.clear()


def other_settings(data):
    [length] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["settings"] = json.dumps(small_cell(seed=7).to_dict())
    text = json.dumps(header).encode()
    data[: 8 + length] = struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("damage", [flip, cut, empty, other_settings])
def test_a_damaged_model_is_never_used(results, damage):
    path = results.local_path / "models" / CELL.cell_id / "12.safetensors"
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        results.models.read(CELL.cell_id, 12)
    with pytest.raises(ConfigError, match=r"12.safetensors can't be used: [^\n]+$"):
        results.models.load(CELL.cell_id)


def test_another_cells_file_is_not_this_cells(results):
    folder = results.local_path / "models"
    (folder / ("a" * 16)).mkdir()
    own = folder / CELL.cell_id / "12.safetensors"
    (folder / ("a" * 16) / "12.safetensors").write_bytes(own.read_bytes())
    with pytest.raises(ConfigError, match="belongs to another cell"):
        results.models.load("a" * 16)


def test_removing_results_removes_models_and_status_counts_them(results, trainer):
    row, curves = trainer.results()[0]
    results.write_result(row, trainer.history[0], curves)
    preset = "cell: {image_size: 4}\ngrid: {seed: [0, 1]}\n"
    write_settings(results, parse_preset(preset, default_name="sweep").settings)
    assert "Models of 1 finished cells are kept, in models/." in report(results)
    results.remove_results({CELL.cell_id})
    assert results.models.steps() == {}


def test_in_an_object_store(s3, monkeypatch, trainer):
    _, address = s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    results = Results("s3://bucket/results", "sweep")
    results.models.write(CELL, trainer.states()[0])
    results.models.write(CELL, trainer.states()[0] | {"wall_seconds": 9.0})
    assert results.models.steps() == {CELL.cell_id: [12]}
    same(results.models.read(CELL.cell_id, 12)[1], trainer.states()[0])
    results.models.remove(CELL.cell_id)
    assert results.models.steps() == {}
