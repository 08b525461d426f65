"""Every architecture a second time: one replica, one sequence, one token after the other, written
as plainly as can be. What it carries from token to token is the state that `state_size` counts."""

import torch

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.architectures.outer_product_memory import FORGET_BIAS


def decode(p, x, y, cell):
    """Parameters of one replica, x of T x X and y of T -> logits of T x C, and the state, a dict of
    tensors, after all T examples."""
    step, state, logits = STEPS[cell.architecture], {}, []
    for t in range(cell.sequence_length):
        embedded = x[t] @ p["embed_x"]
        if not ARCHITECTURES[cell.architecture].has_context:
            tokens = [embedded]
        elif cell.token_format == "shifted":
            tokens = [embedded + (p["embed_y"][y[t - 1]] if t else 0)]
        else:
            tokens = [embedded, embedded + p["embed_y"][y[t]]]
        outputs = [step(p, token, state, cell) for token in tokens]
        logits.append(norm(outputs[0]) @ p["head"])
    return torch.stack(logits), state


def norm(h):
    centred = h - h.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def mlp(p, i, h):
    return h + torch.relu(norm(h) @ p[f"{i}.up"] + p[f"{i}.up_bias"][0]) @ p[f"{i}.down"]


def mlp_step(p, h, state, cell):
    for i in range(cell.num_layers):
        h = mlp(p, i, h)
    return h


def rotate(vector, position):
    half = len(vector) // 2
    pairs = torch.complex(vector[::2], vector[1::2])
    angle = position * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten()


def transformer_step(p, h, state, cell):
    """Carries all keys and values."""
    H, K = cell.num_heads, cell.key_size
    position = len(state.get("0.k", ()))
    if cell.position_encoding == "learned":
        h = h + p["positions"][position]
    for i in range(cell.num_layers):
        n = norm(h)
        q = (n @ p[f"{i}.q"]).view(H, K)
        k, v = (n @ p[f"{i}.kv"]).view(2, H, K)
        if cell.position_encoding == "rotary":
            q, k = (torch.stack([rotate(head, position) for head in t]) for t in (q, k))
        for name, new in ((f"{i}.k", k), (f"{i}.v", v)):
            state[name] = torch.cat([state.get(name, new[:0].view(0, H, K)), new[None]])
        scores = torch.einsum("hk,shk->hs", q, state[f"{i}.k"]) / K**0.5
        mixed = torch.einsum("hs,shk->hk", scores.softmax(-1), state[f"{i}.v"])
        h = mlp(p, i, h + mixed.flatten() @ p[f"{i}.out"])
    return h


def lstm(p, i, x, state):
    """Carries hidden and cell state."""
    D = len(x)
    h, c = (state.get(f"{i}.{name}", torch.zeros_like(x)) for name in "hc")
    a = x @ p[f"{i}.input"] + h @ p[f"{i}.hidden"] + p[f"{i}.bias"][0]
    output, write, forget, new = a.split(D)
    c = torch.sigmoid(forget + 1) * c + torch.sigmoid(write) * torch.tanh(new)
    h = torch.sigmoid(output) * torch.tanh(c)
    state |= {f"{i}.h": h, f"{i}.c": c}
    return h


def lstm_step(p, h, state, cell):
    for i in range(cell.num_layers):
        h = lstm(p, i, h, state)
    return h


def recall(p, i, h, state, cell):
    """Carries a matrix a head, and the token before."""
    H, K = cell.num_heads, cell.key_size
    n = norm(h)
    before = state.get(f"{i}.before", torch.zeros_like(n))
    q = (n @ p[f"{i}.q"]).view(H, K)
    k, v = (n @ p[f"{i}.kv"] + before @ p[f"{i}.kv_before"]).view(2, H, K)
    forget, write = torch.sigmoid(
        (n @ p[f"{i}.gates"] + p[f"{i}.gates_bias"][0]).view(2, H, 1, 1)
        + torch.tensor([FORGET_BIAS, 0.0]).view(2, 1, 1, 1)
    )
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    memory = state.get(f"{i}.memory", torch.zeros(H, K, K, dtype=h.dtype))
    memory = forget * memory + write * torch.einsum("hk,hv->hkv", k, v)
    read = torch.einsum("hk,hkv->hv", q, memory)
    state |= {f"{i}.memory": memory, f"{i}.before": n}
    return h + torch.cat([norm(head) for head in read]) @ p[f"{i}.out"]


def fast_weights_step(p, h, state, cell):
    for i in range(cell.num_layers):
        h = recall(p, i, h + lstm(p, i, norm(h), state), state, cell)
    return h


def linear_attention_step(p, h, state, cell):
    for i in range(cell.num_layers):
        h = mlp(p, i, recall(p, i, h, state, cell))
    return h


STEPS = {
    "transformer": transformer_step,
    "lstm": lstm_step,
    "fast_weights": fast_weights_step,
    "linear_attention": linear_attention_step,
    "mlp": mlp_step,
}
