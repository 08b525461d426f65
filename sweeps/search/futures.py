"""What may become of cells that are chosen: maps drawn from what is known.

Cells of a batch, and those that are under way, are chosen without knowing what the others will
tell. So a few maps are drawn from the posterior of a family of rows, all parameters of each
(forward filtering, backward sampling: Carter & Kohn 1994, Biometrika 81:541). In each of these
futures a chosen cell tells what it tells on that map, and what the next one is worth is judged by
the posterior after it, in all rows of the family. The worth of a cell is its mean over futures.
(Kirsch, van Amersfoort & Gal 2019, arXiv 1906.08158, sum over the outcomes of a batch, which are
too many where all rows learn from each other.)

The boundary's random walk has steps of a length drawn anew at each size, by the posterior of the
length that all sizes share in `core.joint_thresholds`: one pass instead of one a length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaphase.core import joint_thresholds
from metaphase.core.joint_thresholds import (
    Outcomes,
    Smoothed,
    backward,
    forward,
    without_traces,
)

MAPS = 128  # rows of all futures
RULED_OUT = 1e-3  # share of the posterior


class Futures:
    """The futures of a family's W rows: F of them, or one as long as no cell is chosen.

    Attributes:
        number: how many futures there will be.
        share_WxTxMxK: as given, of the parameters that are left.

    Args:
        theta_T: thetas of the posterior.
        v_W: log2 of the rows' sizes, ascending.
        outcomes_W: what is known of each row.
        share_WxTxMxK: of each row, P(y = 1) at each theta, M other parameters, and its K points.
        posterior: of these outcomes. Other parameters that it rules out are left out.
    """

    def __init__(
        self,
        theta_T: np.ndarray,
        v_W: np.ndarray,
        outcomes_W: Sequence[Outcomes],
        share_WxTxMxK: Sequence[np.ndarray],
        posterior: Smoothed,
    ) -> None:
        leaps = joint_thresholds.LEAPS
        self._kernels = [
            joint_thresholds.walk(theta_T, dv, posterior.share_of_step, leaps).astype(np.float32)
            for dv in np.diff(v_W)
        ]
        weight_M = posterior.weight_WxTxM.sum(axis=(0, 1))
        kept = weight_M > RULED_OUT * weight_M.sum()
        log_WxTxM = joint_thresholds.log_likelihoods(theta_T, outcomes_W)[:, :, kept]
        like_WxTxM = np.exp(log_WxTxM - log_WxTxM.max(axis=(1, 2), keepdims=True))
        self._like_WxTxFxM = _light(like_WxTxM)[:, :, None]
        lighter = {id(share): _light(share[:, kept]) for share in share_WxTxMxK}  # many are one
        self.share_WxTxMxK = [lighter[id(share)] for share in share_WxTxMxK]
        self.number = int(np.clip(MAPS // len(outcomes_W), 4, 32))
        self._drawn: tuple[np.ndarray, np.ndarray] | None = None
        self._up_to_WxTxFxM = np.ones_like(self._like_WxTxFxM)
        self._after_WxTxFxM = np.ones_like(self._like_WxTxFxM)
        self._changed = list(range(len(outcomes_W)))
        self.pass_on(0)

    @property
    def differ(self) -> bool:
        """Whether a cell was chosen."""
        return self._drawn is not None

    def weight(self, w: int) -> np.ndarray:
        """The posterior of a row in each future, shape (T, F, M); each adds up to 1."""
        both = self._up_to_WxTxFxM[w] * self._after_WxTxFxM[w]
        posterior: np.ndarray = both / both.sum(axis=(0, 2), keepdims=True)
        return posterior

    def choose(self, cell: int, w: int, k: int, worth: float) -> None:
        """Takes into account what a cell at point k of row w will tell; `pass_on` does in its row
        and in others.

        Args:
            cell: its number: chance is the same for a cell whichever were chosen before it.
            worth: the chance that it tells anything.
        """
        if self._drawn is None:
            self._drawn = self._draw()
            for name in ("_like_WxTxFxM", "_up_to_WxTxFxM", "_after_WxTxFxM"):
                setattr(self, name, np.repeat(getattr(self, name), self.number, axis=2))
        theta_WxF, m_F = self._drawn
        share_TxM = self.share_WxTxMxK[w][:, :, k]
        chance_2xF = np.random.default_rng([1, cell]).random((2, self.number))
        yes_F = chance_2xF[0] < share_TxM[theta_WxF[w], m_F]
        told_TxFxM = np.where(yes_F[:, None], share_TxM[:, None], 1 - share_TxM[:, None])
        told_TxFxM = np.where(chance_2xF[1][:, None] < worth, told_TxFxM, np.float32(1))
        like_TxFxM = self._like_WxTxFxM[w] * told_TxFxM
        self._like_WxTxFxM[w] = _light(like_TxFxM / like_TxFxM.max(axis=(0, 2), keepdims=True))
        self._changed.append(w)

    def pass_on(self, near: int) -> range:
        """Passes on what chosen cells tell, to as many rows as `near` after and before theirs.
        Returns these rows and theirs."""
        if not self._changed:
            return range(0)
        first, last = min(self._changed), max(self._changed)
        self._changed = []
        like, kernels = self._like_WxTxFxM, self._kernels
        rows = range(max(0, first - near), min(len(like), last + near + 1))
        for w in range(first, rows.stop):
            up_to = forward(like[w], kernels[w - 1], self._up_to_WxTxFxM[w - 1]) if w else like[w]
            self._up_to_WxTxFxM[w] = _light(up_to / up_to.sum(axis=(0, 2), keepdims=True))
        for w in reversed(range(rows.start, last)):
            self._after_WxTxFxM[w] = backward(kernels[w], like[w + 1], self._after_WxTxFxM[w + 1])
        return rows

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Maps: of each row and future the index of its theta, and of each future that of the other
        parameters. The last row's are evenly spread over its posterior."""
        up_to_WxTxM = self._up_to_WxTxFxM[:, :, 0]
        chance_WxF = np.random.default_rng(0).random((len(up_to_WxTxM), self.number))
        even_F = (np.arange(self.number) + 0.5) / self.number
        last_F = _at(up_to_WxTxM[-1].ravel()[:, None], even_F)
        theta_F, m_F = np.divmod(last_F, up_to_WxTxM.shape[2])
        found = [theta_F]
        for w in reversed(range(len(up_to_WxTxM) - 1)):
            weight_TxF = up_to_WxTxM[w][:, m_F] * self._kernels[w][:, found[-1]]
            found.append(_at(weight_TxF, chance_WxF[w]))
        return np.stack(found[::-1]), m_F


def _light(values: np.ndarray) -> np.ndarray:
    """In single precision, without traces."""
    return without_traces(values.astype(np.float32))


def _at(weight_NxF: np.ndarray, chance_F: np.ndarray) -> np.ndarray:
    """Where chances lie among cumulative weights, shape (F,)."""
    cumulative_NxF = np.cumsum(weight_NxF, axis=0)
    index: np.ndarray = (cumulative_NxF < chance_F * cumulative_NxF[-1]).sum(axis=0)
    return index
