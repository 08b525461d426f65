"""Activations: what a model computes on its way is what its predictions come from."""

import pytest
import torch

from metaphase.core.kernels.operations import plain_layer_norm
from metaphase.core.trained import TrainedModel
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


def trained(**settings):
    cell = small_cell(steps=4, eval_every=4, eval_sequences=4, learning_rate=0.03, **settings)
    trainer = PackTrainer([cell])
    trainer.advance()
    model = TrainedModel(cell, trainer.states()[0])
    return model, model.sequences("unseen", range(6))


@pytest.mark.parametrize("position_encoding", ["rotary", "learned", "none"])
@pytest.mark.parametrize("token_format", ["interleaved", "shifted"])
def test_a_transformers_predictions_follow_from_its_activations(token_format, position_encoding):
    model, (x, y) = trained(token_format=token_format, position_encoding=position_encoding)
    cell, p, found = model.cell, model.weights, model.activations(x, y)
    logits = plain_layer_norm(found["1.out"]) @ p["head"]
    torch.testing.assert_close(logits, model.predict(x, y))
    assert torch.equal(found["logits"], model.predict(x, y))
    assert found["tokens"].shape == (6, cell.num_tokens - (token_format == "interleaved"), 8)
    h = found["tokens"]
    if position_encoding == "learned":
        h = h + p["positions"][: h.shape[1]]
    for i in range(cell.num_layers):
        attention = found[f"{i}.attention"]
        stride = 2 if i == cell.num_layers - 1 and token_format == "interleaved" else 1
        read = h[:, ::stride]
        B, H, Q, L = attention.shape
        assert (6, cell.num_heads, read.shape[1], h.shape[1]) == (B, H, Q, L)
        torch.testing.assert_close(attention.sum(-1), torch.ones(B, H, Q))
        later = torch.arange(L) > torch.arange(0, L, stride)[:, None]
        assert (attention[..., later] == 0).all()
        assert (attention[..., ~later] > 0).all()
        value = (plain_layer_norm(h) @ p[f"{i}.kv"]).view(B, L, 2, H, cell.key_size)[:, :, 1]
        mixed = torch.einsum("bhql,blhk->bqhk", attention, value).flatten(2)
        torch.testing.assert_close(found[f"{i}.attended"], read + mixed @ p[f"{i}.out"])
        up = plain_layer_norm(found[f"{i}.attended"]) @ p[f"{i}.up"] + p[f"{i}.up_bias"]
        torch.testing.assert_close(found[f"{i}.hidden"], up.relu())
        h = found[f"{i}.out"]


def test_a_change_of_weights_shows():
    model, (x, y) = trained()
    before = model.activations(x, y)
    model.weights["0.q"].zero_()
    after = model.activations(x, y)
    uniform = 1 / torch.arange(1, 16)
    torch.testing.assert_close(after["0.attention"][:, :, -1, -1], uniform[-1].expand(6, 2))
    assert not torch.equal(before["logits"], after["logits"])
    assert torch.equal(before["tokens"], after["tokens"])
    assert not after["logits"].requires_grad


@pytest.mark.parametrize("architecture", ["lstm", "mlp", "fast_weights"])
def test_other_architectures_have_tokens_and_logits(architecture):
    model, (x, y) = trained(architecture=architecture)
    found = model.activations(x, y)
    assert set(found) == {"tokens", "logits"}
    assert torch.equal(found["logits"], model.predict(x, y))


def test_impossible_sequences_are_refused():
    model, (x, y) = trained()
    with pytest.raises(ValueError, match="x and y are"):
        model.activations(x[:, 1:], y)
