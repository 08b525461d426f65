"""Yardsticks: how well do known learning algorithms predict on the very sequences a model sees?

At position t each is fitted, from nothing, to the t - 1 examples before it and predicts the t-th
label, for all sequences at once. They know nothing of the other sequences, as a general learner
would. What they need to know in advance are the constants below, chosen once on training images of
`digits` and MNIST (see dev/LOG.md) and the same for every dataset and length.

All but the MLP depend on inputs through their inner products alone, and the MLP's initial weights
are isotropic, so inputs longer than a sequence are replaced by their T coordinates in the space
that the sequence's inputs span: the same predictions (for the MLP: in distribution), less work.
Inputs are divided by sqrt(Nx), so that an input's expected squared length is about 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import Cell
from metaphase.core.datasets.images import CellImages
from metaphase.core.tasks.sampler import Sampler

NEAREST, RIDGE, LOGISTIC, MLP, CHANCE = YARDSTICKS = (
    "nearest_neighbour",
    "ridge",
    "logistic",
    "mlp",
    "chance",
)

RIDGE_ALPHA = 0.1  # weight of |w|^2, in inputs / sqrt(Nx)
LOGISTIC_LAMBDA = 0.01  # weight of |w|^2 / 2: scikit-learn's 1 / C
LOGISTIC_STEPS = 300  # at most; 20 to 100 are needed
LOGISTIC_ERROR = 1e-3  # of the weights, by which the last step may miss the optimum
MLP_HIDDEN = 64
MLP_STEPS = 100
MLP_RATE = 0.1
MLP_MOMENTUM = 0.9

# What results depend on beside the sequences: a change makes new files
# (sweeps.commands.yardsticks).
CONSTANTS = {
    "ridge_alpha": RIDGE_ALPHA,
    "logistic_lambda": LOGISTIC_LAMBDA,
    "mlp": [MLP_HIDDEN, MLP_STEPS, MLP_RATE, MLP_MOMENTUM],
}

CHUNK = 2**26  # numbers in the largest tensor that a chunk of sequences may need
DENSE, FURTHER = 8, 12  # positions up to the 8th are all evaluated, of the others 12 at most


def positions(length: int) -> list[int]:
    """The positions of a sequence that are evaluated, from 1: all of the first 8, then at most 12
    more, evenly spaced and counted back from the last; all if there are at most 20."""
    spacing = max(1, -(-(length - DENSE) // FURTHER))
    return [*range(1, min(DENSE, length) + 1), *range(length, DENSE, -spacing)[::-1]]


# ------------------------------------------------------------------------------- the algorithms
# Each: examples x_BxNxX and their labels y_BxN (N >= 1), queries q_BxX -> scores_BxC of each class.


def nearest_neighbour(x_BxNxX: Tensor, y_BxN: Tensor, q_BxX: Tensor, num_classes: int) -> Tensor:
    """1 for the class of the nearest example in Euclidean distance (the first, if several are)."""
    distance_BxN = (x_BxNxX - q_BxX[:, None]).square().sum(dim=2)
    return F.one_hot(y_BxN.gather(1, distance_BxN.argmin(dim=1)[:, None])[:, 0], num_classes)


def ridge(
    x_BxNxX: Tensor, y_BxN: Tensor, q_BxX: Tensor, num_classes: int, alpha: float = RIDGE_ALPHA
) -> Tensor:
    """Ridge regression on one-hot labels with an intercept that isn't penalized.

    Minimizes sum |y - W x - b|^2 + alpha |W|^2, through the N x N system of the centred inputs.
    The class of the highest score is that of scikit-learn's RidgeClassifier.
    """
    y_BxNxC = F.one_hot(y_BxN, num_classes).to(x_BxNxX.dtype)
    x_mean, y_mean = x_BxNxX.mean(dim=1, keepdim=True), y_BxNxC.mean(dim=1, keepdim=True)
    x_BxNxX = x_BxNxX - x_mean
    gram_BxNxN = x_BxNxX @ x_BxNxX.mT
    gram_BxNxN.diagonal(dim1=1, dim2=2).add_(alpha)
    dual_BxNxC = torch.cholesky_solve(y_BxNxC - y_mean, torch.linalg.cholesky(gram_BxNxN))
    return ((q_BxX[:, None] - x_mean) @ x_BxNxX.mT @ dual_BxNxC + y_mean)[:, 0]


def logistic(
    x_BxNxX: Tensor, y_BxN: Tensor, q_BxX: Tensor, num_classes: int, lam: float = LOGISTIC_LAMBDA
) -> Tensor:
    """Multinomial logistic regression among the classes seen; the intercept isn't penalized.

    Minimizes sum of cross-entropies + lam |W|^2 / 2, the problem of scikit-learn's
    LogisticRegression(C=1/lam) with three classes or more. (With two it has one weight vector
    where this has two, which amounts to half of lam.) The Hessian is at most that of Boehning
    (1992, Ann. Inst. Statist. Math. 44:197), 1/2 X'X for each class: steps are divided by it and
    accelerated (Nesterov), restarted where they point uphill (O'Donoghue and Candes 2015).
    """
    B, N, _ = x_BxNxX.shape
    z_BxNxZ = torch.cat([x_BxNxX, x_BxNxX.new_ones(B, N, 1)], dim=2)
    y_BxNxC = F.one_hot(y_BxN, num_classes).to(z_BxNxZ.dtype)
    mask_Bx1xC = torch.where(y_BxNxC.sum(dim=1, keepdim=True) > 0, 0.0, -torch.inf)
    penalty_Zx1 = torch.full_like(z_BxNxZ[0, 0, :, None], lam)
    penalty_Zx1[-1] = 0.0
    bound_BxZxZ = 0.5 * z_BxNxZ.mT @ z_BxNxZ + torch.diag(penalty_Zx1[:, 0])
    step_BxZxZ = torch.cholesky_inverse(torch.linalg.cholesky(bound_BxZxZ))

    w_BxZxC = z_BxNxZ.new_zeros(B, z_BxNxZ.shape[2], num_classes)
    ahead_BxZxC, age_B = w_BxZxC, z_BxNxZ.new_ones(B, 1, 1)
    for step in range(LOGISTIC_STEPS):
        p_BxNxC = (z_BxNxZ @ ahead_BxZxC + mask_Bx1xC).softmax(dim=2)
        gradient_BxZxC = z_BxNxZ.mT @ (p_BxNxC - y_BxNxC) + penalty_Zx1 * ahead_BxZxC
        # The curvature is at least lam, so the optimum is at most |gradient| / lam away.
        if step % 10 == 9 and gradient_BxZxC.abs().max() < LOGISTIC_ERROR * lam:
            break
        new_BxZxC = ahead_BxZxC - step_BxZxZ @ gradient_BxZxC
        moved_BxZxC = new_BxZxC - w_BxZxC
        uphill_B = (gradient_BxZxC * moved_BxZxC).sum(dim=(1, 2), keepdim=True) > 0
        next_age_B = (1.0 + (1.0 + 4.0 * age_B**2).sqrt()) / 2.0
        momentum_B = torch.where(uphill_B, 0.0, (age_B - 1.0) / next_age_B)
        ahead_BxZxC = new_BxZxC + momentum_B * moved_BxZxC
        w_BxZxC, age_B = new_BxZxC, torch.where(uphill_B, 1.0, next_age_B)
    scores_BxC = (q_BxX[:, None] @ w_BxZxC[:, :-1] + w_BxZxC[:, -1:])[:, 0]
    return scores_BxC + mask_Bx1xC[:, 0]


def mlp(
    x_BxNxX: Tensor, y_BxN: Tensor, q_BxX: Tensor, num_classes: int, w1_BxXxH: Tensor
) -> Tensor:
    """A hidden layer of ReLUs, trained from scratch by gradient descent on all N examples.

    Momentum as torch.optim.SGD has it; cross-entropy, mean over examples; no weight decay; biases
    and output weights start at 0. As scikit-learn's MLPClassifier(solver="sgd"), whose batches hold
    up to 200 examples, with momentum that doesn't look ahead.

    Args:
        w1_BxXxH: the initial weights of the hidden units.
    """
    y_BxNxC = F.one_hot(y_BxN, num_classes).to(x_BxNxX.dtype)
    B, N, _ = x_BxNxX.shape
    w1, b1 = w1_BxXxH, x_BxNxX.new_zeros(B, 1, w1_BxXxH.shape[2])
    w2, b2 = b1.new_zeros(B, w1.shape[2], num_classes), b1.new_zeros(B, 1, num_classes)
    weights = [w1, b1, w2, b2]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(MLP_STEPS):
        w1, b1, w2, b2 = weights
        h_BxNxH = torch.baddbmm(b1, x_BxNxX, w1).relu()
        error_BxNxC = (torch.baddbmm(b2, h_BxNxH, w2).softmax(dim=2) - y_BxNxC) / N
        back_BxNxH = (error_BxNxC @ w2.mT) * (h_BxNxH > 0)
        gradients = [
            x_BxNxX.mT @ back_BxNxH,
            back_BxNxH.sum(dim=1, keepdim=True),
            h_BxNxH.mT @ error_BxNxC,
            error_BxNxC.sum(dim=1, keepdim=True),
        ]
        velocities = [MLP_MOMENTUM * v + g for v, g in zip(velocities, gradients, strict=True)]
        weights = [w - MLP_RATE * v for w, v in zip(weights, velocities, strict=True)]
    w1, b1, w2, b2 = weights
    return torch.baddbmm(b2, torch.baddbmm(b1, q_BxX[:, None], w1).relu(), w2)[:, 0]


def initial_weights(seed: int, sequence_B: Tensor, size: int) -> Tensor:
    """The MLP's first hidden weights for each sequence: N(0, 2), inputs having length 1 (He et al.
    2015). The same at every position, so that a learning curve is of one network."""
    low_B, high_B = sequence_B & 0xFFFFFFFF, torch.zeros_like(sequence_B)
    normal_BxXxH = rng.normal_matrix(
        torch.full_like(sequence_B, seed), rng.YARDSTICK, size, MLP_HIDDEN, low_B, high_B
    )
    return normal_BxXxH * math.sqrt(2.0)


# --------------------------------------------------------------------------------- on sequences


def coordinates(x_BxTxX: Tensor) -> Tensor:
    """Inputs / sqrt(Nx), in at most T coordinates: lengths and angles within a sequence stay."""
    T, X = x_BxTxX.shape[1:]
    x_BxTxX = x_BxTxX.float() / math.sqrt(X)
    return x_BxTxX if X <= T else torch.linalg.qr(x_BxTxX.mT, mode="r").R.mT


def correct_predictions(
    x_BxTxX: Tensor, y_BxT: Tensor, num_classes: int, seed: int, sequence_B: Tensor
) -> dict[str, Tensor]:
    """Whether each yardstick (but chance) is right: bool, B x positions(T).

    At position 1, where there is nothing to fit, all name class 0: right once in num_classes.
    """
    z_BxTxZ = coordinates(x_BxTxX)
    w1_BxZxH = initial_weights(seed, sequence_B, z_BxTxZ.shape[2])
    algorithms: dict[str, Callable[..., Tensor]] = {
        NEAREST: nearest_neighbour,
        RIDGE: ridge,
        LOGISTIC: logistic,
        MLP: functools.partial(mlp, w1_BxXxH=w1_BxZxH),
    }
    correct: dict[str, list[Tensor]] = {name: [] for name in algorithms}
    for position in positions(y_BxT.shape[1]):
        n, label_B = position - 1, y_BxT[:, position - 1]
        for name, scores in algorithms.items():
            guess_B = torch.zeros_like(label_B)
            if n:
                examples = (z_BxTxZ[:, :n], y_BxT[:, :n], z_BxTxZ[:, n], num_classes)
                guess_B = scores(*examples).argmax(dim=1)
            correct[name].append(guess_B == label_B)
    return {name: torch.stack(columns, dim=1) for name, columns in correct.items()}


def evaluate(cell: Cell, images: CellImages, split: str) -> list[dict[str, Any]]:
    """Every yardstick's accuracy on a split's evaluation sequences of a cell.

    Args:
        cell: what it says of the model, its size and training has no influence.
        images: the cell's, on the device that computes.
        split: of `Sampler.evaluation_batch`.

    Returns:
        A row a yardstick and position: yardstick, position, accuracy, accuracy_se, n.
    """
    parts: dict[str, list[Tensor]] = {}
    for sequence_B, x_BxTxX, y_BxT in _sequences(cell, images, split):
        found = correct_predictions(x_BxTxX, y_BxT, cell.num_classes, cell.seed, sequence_B)
        for name, correct_BxP in found.items():
            parts.setdefault(name, []).append(correct_BxP.cpu())
    rows = []
    at, n = positions(cell.sequence_length), cell.eval_sequences
    for name, chunks in parts.items():
        accuracy_P = torch.cat(chunks).double().mean(dim=0)
        error_P = (accuracy_P * (1.0 - accuracy_P) / (n - 1)).sqrt()  # sample deviation / sqrt(n)
        points = zip(at, accuracy_P.tolist(), error_P.tolist(), strict=True)
        rows += [_row(name, *point, n) for point in points]
    other = split.partition("/")[2]
    source = images.train if split == schema.TRAIN else images.heldout
    share = (images.unseen[other] if other else source).commonest_class_share()
    return rows + [_row(CHANCE, position, share, 0.0, n) for position in at]


def _row(name: str, position: int, accuracy: float, error: float, n: int) -> dict[str, Any]:
    return {
        "yardstick": name, "position": position, "accuracy": accuracy, "accuracy_se": error, "n": n,
    }  # fmt: skip


def _sequences(
    cell: Cell, images: CellImages, split: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Numbers, inputs and labels of all evaluation sequences, in chunks that fit in memory."""
    sampler = Sampler([cell], images)
    device, T, X = images.heldout.y_I.device, cell.sequence_length, cell.input_size
    features = min(T, X)
    largest = max(X * X, T * X, features * MLP_HIDDEN, (features + 1) ** 2)
    for sequence_B in torch.arange(cell.eval_sequences, device=device).split(CHUNK // largest + 1):
        batch = sampler.evaluation_batch(split, sequence_B)
        yield sequence_B, batch.x_RxBxTxX[0], batch.y_RxBxT[0]
