"""The models, the loss, Adam and the plateau a second time, as docs/definitions.md says them: in
float64, a loop over replicas, times and heads, nothing imported from `core`.

A replica's parameters are matrices by name, its hidden vectors matrices with a row a sequence; what
autograd makes of the loops is the reference of every gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Rows = list[Tensor]  # by time, each with a row a sequence
Weights = dict[str, Tensor]


@dataclass
class Model:
    """The settings that a model's formulas name.

    Attributes:
        least_kink: after `logits`, how near any hidden unit of an MLP came to its kink, over the
            root mean square of all hidden units of its layer and time; infinite without MLPs.
    """

    architecture: str
    token_format: str
    position_encoding: str
    num_layers: int
    num_heads: int
    key_size: int
    num_classes: int
    least_kink: float = math.inf

    def logits(self, p: Weights, x_BxTxX: Tensor, y_BxT: Tensor) -> Tensor:
        """B x T x C of one replica."""
        self.least_kink = math.inf
        tokens, read = self._tokens(p, x_BxTxX, y_BxT)
        outputs = self._layers(p, tokens)
        return torch.stack([norm(outputs[s]) @ p["head"] for s in read], dim=1)

    def _tokens(self, p: Weights, x_BxTxX: Tensor, y_BxT: Tensor) -> tuple[Rows, list[int]]:
        tokens: Rows = []
        read: list[int] = []
        for t in range(x_BxTxX.shape[1]):
            e = x_BxTxX[:, t] @ p["embed_x"]
            read.append(len(tokens))
            if self.architecture == "mlp":
                tokens.append(e)
            elif self.token_format == "shifted":
                tokens.append(e if t == 0 else e + p["embed_y"][y_BxT[:, t - 1]])
            else:
                tokens.append(e)
                tokens.append(e + p["embed_y"][y_BxT[:, t]])
        return tokens, read

    def _layers(self, p: Weights, h: Rows) -> Rows:
        if self.position_encoding == "learned":
            h = [token + p["positions"][s] for s, token in enumerate(h)]
        for number in range(self.num_layers):
            prefix = f"{number}."
            own = {name[len(prefix) :]: w for name, w in p.items() if name.startswith(prefix)}
            if self.architecture == "transformer":
                h = self._mlp(own, self._attention(own, h))
            elif self.architecture == "lstm":
                h = self._lstm(own, h)
            elif self.architecture == "fast_weights":
                added = self._lstm(own, [norm(h_s) for h_s in h])
                h = self._memory(own, [h_s + r_s for h_s, r_s in zip(h, added, strict=True)])
            elif self.architecture == "linear_attention":
                h = self._mlp(own, self._memory(own, h))
            else:
                h = self._mlp(own, h)
        return h

    def _mlp(self, w: Weights, h: Rows) -> Rows:
        result: Rows = []
        for h_s in h:
            hidden = norm(h_s) @ w["up"] + w["up_bias"]
            size = hidden.detach().abs()
            kink = size.min() / size.square().mean().sqrt()
            self.least_kink = min(self.least_kink, kink.item())
            result.append(h_s + hidden * (hidden > 0) @ w["down"])
        return result

    def _attention(self, w: Weights, h: Rows) -> Rows:
        H, K = self.num_heads, self.key_size
        keys: list[Rows] = [[] for _ in range(H)]  # by head, then time
        values: list[Rows] = [[] for _ in range(H)]
        result: Rows = []
        for s, h_s in enumerate(h):
            n = norm(h_s)
            q, kv = n @ w["q"], n @ w["kv"]
            mixed: Rows = []
            for head in range(H):
                query, key = part(q, head, K), part(kv, head, K)
                if self.position_encoding == "rotary":
                    query, key = turned(query, s), turned(key, s)
                keys[head].append(key)
                values[head].append(part(kv, H + head, K))
                scores = (query * torch.stack(keys[head])).sum(2) / math.sqrt(K)  # times x rows
                weights = torch.exp(scores - scores.detach().max(0).values)
                weights = weights / weights.sum(0)
                mixed.append((weights[:, :, None] * torch.stack(values[head])).sum(0))
            result.append(h_s + torch.cat(mixed, dim=1) @ w["out"])
        return result

    def _lstm(self, w: Weights, z: Rows) -> Rows:
        D = z[0].shape[1]
        r = c = torch.zeros_like(z[0])
        result: Rows = []
        for z_s in z:
            gates = z_s @ w["input"] + r @ w["hidden"] + w["bias"]
            o, i, f, g = (part(gates, number, D) for number in range(4))
            c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
            r = torch.sigmoid(o) * torch.tanh(c)
            result.append(r)
        return result

    def _memory(self, w: Weights, h: Rows) -> Rows:
        H, K = self.num_heads, self.key_size
        memories = [h[0].new_zeros(len(h[0]), K, K) for _ in range(H)]
        before = torch.zeros_like(h[0])
        result: Rows = []
        for h_s in h:
            n = norm(h_s)
            q = n @ w["q"]
            kv = n @ w["kv"] + before @ w["kv_before"]
            gates = n @ w["gates"] + w["gates_bias"]
            answers: Rows = []
            for head in range(H):
                query, key, value = part(q, head, K), part(kv, head, K), part(kv, H + head, K)
                key = key / torch.sqrt((key * key).sum(1, keepdim=True) + 1e-6)
                forget, write = part(gates, head, 1) + 4.0, part(gates, H + head, 1)
                outer = key[:, :, None] * value[:, None, :]
                memories[head] = (
                    torch.sigmoid(forget)[:, :, None] * memories[head]
                    + torch.sigmoid(write)[:, :, None] * outer
                )
                answers.append(norm((query[:, :, None] * memories[head]).sum(1)))
            result.append(h_s + torch.cat(answers, dim=1) @ w["out"])
            before = n
        return result


def part(rows: Tensor, number: int, width: int) -> Tensor:
    """Part `number` of those of equal width that lie side by side in each row."""
    return rows[:, number * width : (number + 1) * width]


def norm(rows: Tensor) -> Tensor:
    """Layer norm of each row."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + 1e-5)


def turned(rows: Tensor, position: int) -> Tensor:
    """Rotary positions, the first being 0."""
    K = rows.shape[1]
    columns: Rows = []
    for j in range(K // 2):
        phi = position * 10_000.0 ** (-2.0 * j / K)
        a, b = rows[:, 2 * j], rows[:, 2 * j + 1]
        columns.append(a * math.cos(phi) - b * math.sin(phi))
        columns.append(a * math.sin(phi) + b * math.cos(phi))
    return torch.stack(columns, dim=1)


def loss(logits_BxTxC: Tensor, y_BxT: Tensor) -> Tensor:
    """Mean over sequences and positions of -ln P(y), nats."""
    total = logits_BxTxC.new_zeros(())
    for logits_TxC, y_T in zip(logits_BxTxC, y_BxT, strict=True):
        for logits_C, y in zip(logits_TxC, y_T.tolist(), strict=True):
            shifted = logits_C - logits_C.detach().max()
            total = total + torch.log(torch.exp(shifted).sum()) - shifted[y]
    return total / y_BxT.numel()


def parameters(model: Model, D: int, hidden: int, X: int, tokens: int) -> dict[str, tuple]:
    """Name -> shape and initial deviation of each parameter. `hidden` is M, X is Nx."""
    H, K, L, C = model.num_heads, model.key_size, model.num_layers, model.num_classes
    has_mlp = model.architecture in ("transformer", "linear_attention", "mlp")
    has_lstm = model.architecture in ("lstm", "fast_weights")
    has_memory = model.architecture in ("fast_weights", "linear_attention")
    result: dict[str, tuple] = {"embed_x": ((X, D), X**-0.5), "head": ((D, C), 0.0)}
    if model.architecture != "mlp":
        result["embed_y"] = ((C, D), 1.0)
    if model.position_encoding == "learned":
        result["positions"] = ((tokens, D), 0.02)
    for i in range(L):
        if has_lstm:
            result[f"{i}.input"] = result[f"{i}.hidden"] = ((D, 4 * D), D**-0.5)
            result[f"{i}.bias"] = ((1, 4 * D), 0.0)
        if has_memory or model.architecture == "transformer":
            result[f"{i}.q"] = ((D, H * K), D**-0.5)
            result[f"{i}.kv"] = ((D, 2 * H * K), D**-0.5)
            result[f"{i}.out"] = ((H * K, D), (2 * L * H * K) ** -0.5)
        if has_memory:
            result[f"{i}.kv_before"] = ((D, 2 * H * K), D**-0.5)
            result[f"{i}.gates"] = ((D, 2 * H), D**-0.5)
            result[f"{i}.gates_bias"] = ((1, 2 * H), 0.0)
        if has_mlp:
            result[f"{i}.up"] = ((D, hidden), D**-0.5)
            result[f"{i}.up_bias"] = ((1, hidden), 0.0)
            only = 1 if model.architecture == "mlp" else 2
            result[f"{i}.down"] = ((hidden, D), (only * L * hidden) ** -0.5)
    return result


def adam(
    theta: np.ndarray,
    gradients: list[np.ndarray],
    *,
    learning_rate: float,
    warmup_steps: int,
    beta1: float,
    beta2: float,
    epsilon: float,
    schedule: str,
    end: float,
    steps: int,
    decay: float,
    clip: float,
) -> list[np.ndarray]:
    """Weights after each step, given each step's gradient before clipping; float64."""
    theta = theta.astype(np.float64)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    after: list[np.ndarray] = []
    for k, g in enumerate(gradients, start=1):
        norm = np.linalg.norm(g)
        if clip and norm > clip:
            g = g * clip / norm
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        rate = learning_rate * (min(1.0, k / warmup_steps) if warmup_steps else 1.0)
        done = max(0.0, (k - 1 - warmup_steps) / (steps - warmup_steps))
        left = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
        rate *= 1.0 if schedule == "constant" else end + (1 - end) * left
        theta = (1 - rate * decay) * theta
        theta = theta - rate * (m / (1 - beta1**k)) / (np.sqrt(v / (1 - beta2**k)) + epsilon)
        after.append(theta)
    return after


def plateau_steps(losses: list[float], num_classes: int) -> int | None:
    """The first step, from 1, after which the moving average is below 0.95 ln C."""
    average = math.log(num_classes)
    for k, loss_k in enumerate(losses, start=1):
        average = 0.95 * average + 0.05 * loss_k
        if average < 0.95 * math.log(num_classes):
            return k
    return None
