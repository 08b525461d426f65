"""Learning algorithms that predict a label from the examples before it, for B sequences at once.

Each takes T examples x_BxTxX (T >= 1) with their labels y_BxT and queries q_BxX, and gives
scores_BxC of the classes. What an algorithm needs to know in advance are the constants below,
chosen once on training images of `digits` and MNIST (see dev/LOG.md) and the same for every dataset
and length.

Axes beside the usual ones: Z an input's numbers and the intercept's 1, M hidden units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE_ALPHA = 0.1  # weight of |w|^2, in inputs / sqrt(Nx)
LOGISTIC_LAMBDA = 0.01  # weight of |w|^2 / 2: scikit-learn's 1 / C
LOGISTIC_STEPS = 300  # at most; 20 to 100 are needed
LOGISTIC_ERROR = 1e-3  # of the weights, by which the last step may miss the optimum
MLP_HIDDEN = 64
MLP_STEPS = 100
MLP_RATE = 0.1
MLP_MOMENTUM = 0.9


def label_counts(x_BxTxX: Tensor, y_BxT: Tensor, q_BxX: Tensor, num_classes: int) -> Tensor:
    """How often each label was seen: the best that can be done on a new task without looking at an
    input (`core.label_counts`)."""
    return F.one_hot(y_BxT, num_classes).sum(dim=1)


def nearest_neighbour(x_BxTxX: Tensor, y_BxT: Tensor, q_BxX: Tensor, num_classes: int) -> Tensor:
    """1 for the class of the nearest example in Euclidean distance (the first, if several are)."""
    return F.one_hot(y_BxT.gather(1, nearest(x_BxTxX, q_BxX)[:, None])[:, 0], num_classes)


def nearest(x_BxTxX: Tensor, q_BxX: Tensor) -> Tensor:
    """number_B of the example nearest to each query."""
    return (x_BxTxX - q_BxX[:, None]).square().sum(dim=2).argmin(dim=1)


def bigram_counts(y_BxT: Tensor, num_classes: int) -> Tensor:
    """How often each symbol followed the last one, plus 1, in a sequence without inputs: the
    posterior under Dirichlet(1, ..., 1), times a number."""
    after_BxT = y_BxT[:, :-1] == y_BxT[:, -1:]
    follows_BxTxC = F.one_hot(y_BxT[:, 1:], num_classes) * after_BxT[..., None]
    return follows_BxTxC.sum(dim=1) + 1


def ridge(
    x_BxTxX: Tensor, y_BxT: Tensor, q_BxX: Tensor, num_classes: int, alpha: float = RIDGE_ALPHA
) -> Tensor:
    """Ridge regression on one-hot labels with an intercept that isn't penalized.

    Minimizes sum |y - W x - b|^2 + alpha |W|^2, through the T x T system of the centred inputs.
    The class of the highest score is that of scikit-learn's RidgeClassifier.
    """
    return ridge_estimates(x_BxTxX, F.one_hot(y_BxT, num_classes).to(x_BxTxX.dtype), q_BxX, alpha)


def ridge_estimates(
    x_BxTxX: Tensor, y_BxTxN: Tensor, q_BxX: Tensor, alpha: float = RIDGE_ALPHA
) -> Tensor:
    """The same regression on any numbers y_BxTxN: its estimates at the queries, B x N."""
    mean_Bx1xX, mean_Bx1xN = x_BxTxX.mean(dim=1, keepdim=True), y_BxTxN.mean(dim=1, keepdim=True)
    x_BxTxX = x_BxTxX - mean_Bx1xX
    gram_BxTxT = x_BxTxX @ x_BxTxX.mT
    gram_BxTxT.diagonal(dim1=1, dim2=2).add_(alpha)
    dual_BxTxN = torch.cholesky_solve(y_BxTxN - mean_Bx1xN, torch.linalg.cholesky(gram_BxTxT))
    return ((q_BxX[:, None] - mean_Bx1xX) @ x_BxTxX.mT @ dual_BxTxN + mean_Bx1xN)[:, 0]


def logistic(
    x_BxTxX: Tensor, y_BxT: Tensor, q_BxX: Tensor, num_classes: int, lam: float = LOGISTIC_LAMBDA
) -> Tensor:
    """Multinomial logistic regression among the classes seen; the intercept isn't penalized.

    Minimizes sum of cross-entropies + lam |W|^2 / 2, the problem of scikit-learn's
    LogisticRegression(C=1/lam) with three classes or more. (With two it has one weight vector
    where this has two, which amounts to half of lam.) The Hessian is at most that of Boehning
    (1992, Ann. Inst. Statist. Math. 44:197), 1/2 X'X for each class: steps are divided by it and
    accelerated (Nesterov), restarted where they point uphill (O'Donoghue and Candes 2015).
    """
    B, T, _ = x_BxTxX.shape
    z_BxTxZ = torch.cat([x_BxTxX, x_BxTxX.new_ones(B, T, 1)], dim=2)
    y_BxTxC = F.one_hot(y_BxT, num_classes).to(z_BxTxZ.dtype)
    mask_Bx1xC = torch.where(y_BxTxC.sum(dim=1, keepdim=True) > 0, 0.0, -torch.inf)
    penalty_Zx1 = torch.full_like(z_BxTxZ[0, 0, :, None], lam)
    penalty_Zx1[-1] = 0.0
    bound_BxZxZ = 0.5 * z_BxTxZ.mT @ z_BxTxZ + torch.diag(penalty_Zx1[:, 0])
    step_BxZxZ = torch.cholesky_inverse(torch.linalg.cholesky(bound_BxZxZ))

    w_BxZxC = z_BxTxZ.new_zeros(B, z_BxTxZ.shape[2], num_classes)
    ahead_BxZxC, age_Bx1x1 = w_BxZxC, z_BxTxZ.new_ones(B, 1, 1)
    for step in range(LOGISTIC_STEPS):
        p_BxTxC = (z_BxTxZ @ ahead_BxZxC + mask_Bx1xC).softmax(dim=2)
        gradient_BxZxC = z_BxTxZ.mT @ (p_BxTxC - y_BxTxC) + penalty_Zx1 * ahead_BxZxC
        # The curvature is at least lam, so the optimum is at most |gradient| / lam away.
        if step % 10 == 9 and gradient_BxZxC.abs().max() < LOGISTIC_ERROR * lam:
            break
        new_BxZxC = ahead_BxZxC - step_BxZxZ @ gradient_BxZxC
        moved_BxZxC = new_BxZxC - w_BxZxC
        uphill_Bx1x1 = (gradient_BxZxC * moved_BxZxC).sum(dim=(1, 2), keepdim=True) > 0
        next_age_Bx1x1 = (1.0 + (1.0 + 4.0 * age_Bx1x1**2).sqrt()) / 2.0
        momentum_Bx1x1 = torch.where(uphill_Bx1x1, 0.0, (age_Bx1x1 - 1.0) / next_age_Bx1x1)
        ahead_BxZxC = new_BxZxC + momentum_Bx1x1 * moved_BxZxC
        w_BxZxC, age_Bx1x1 = new_BxZxC, torch.where(uphill_Bx1x1, 1.0, next_age_Bx1x1)
    scores_BxC = (q_BxX[:, None] @ w_BxZxC[:, :-1] + w_BxZxC[:, -1:])[:, 0]
    return scores_BxC + mask_Bx1xC[:, 0]


def mlp(
    x_BxTxX: Tensor, y_BxT: Tensor, q_BxX: Tensor, num_classes: int, w1_BxXxM: Tensor
) -> Tensor:
    """A hidden layer of ReLUs, trained from scratch by gradient descent on all T examples.

    Momentum as torch.optim.SGD has it; cross-entropy, mean over examples; no weight decay; biases
    and output weights start at 0. As scikit-learn's MLPClassifier(solver="sgd"), whose batches hold
    up to 200 examples, with momentum that doesn't look ahead.

    Args:
        w1_BxXxM: the initial weights of the M hidden units.
    """
    y_BxTxC = F.one_hot(y_BxT, num_classes).to(x_BxTxX.dtype)
    B, T, _ = x_BxTxX.shape
    M = w1_BxXxM.shape[2]
    b1_Bx1xM = x_BxTxX.new_zeros(B, 1, M)
    w2_BxMxC, b2_Bx1xC = (
        b1_Bx1xM.new_zeros(B, M, num_classes),
        b1_Bx1xM.new_zeros(B, 1, num_classes),
    )
    weights = [w1_BxXxM, b1_Bx1xM, w2_BxMxC, b2_Bx1xC]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(MLP_STEPS):
        w1_BxXxM, b1_Bx1xM, w2_BxMxC, b2_Bx1xC = weights
        h_BxTxM = torch.baddbmm(b1_Bx1xM, x_BxTxX, w1_BxXxM).relu()
        error_BxTxC = (torch.baddbmm(b2_Bx1xC, h_BxTxM, w2_BxMxC).softmax(dim=2) - y_BxTxC) / T
        back_BxTxM = (error_BxTxC @ w2_BxMxC.mT) * (h_BxTxM > 0)
        gradients = [
            x_BxTxX.mT @ back_BxTxM,
            back_BxTxM.sum(dim=1, keepdim=True),
            h_BxTxM.mT @ error_BxTxC,
            error_BxTxC.sum(dim=1, keepdim=True),
        ]
        velocities = [MLP_MOMENTUM * v + g for v, g in zip(velocities, gradients, strict=True)]
        weights = [w - MLP_RATE * v for w, v in zip(weights, velocities, strict=True)]
    w1_BxXxM, b1_Bx1xM, w2_BxMxC, b2_Bx1xC = weights
    h_Bx1xM = torch.baddbmm(b1_Bx1xM, q_BxX[:, None], w1_BxXxM).relu()
    return torch.baddbmm(b2_Bx1xC, h_Bx1xM, w2_BxMxC)[:, 0]
