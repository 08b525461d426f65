"""Markov chains over a few states.

Park, Lubana, Pres and Tanaka 2024, "Competition Dynamics Shape Algorithmic Phases of In-Context
Learning" (arXiv 2412.01003), section 2; Edelman, Tsilivis, Edelman, Malach and Goel 2024, "The
Evolution of Statistical Induction Heads" (arXiv 2402.11004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaphase.core.families.sums import logarithm, one_hot, sums_before
from metaphase.core.predictors import (
    GENERALIZING,
    MEMORIZING,
    FromContext,
    FromTask,
    FromTasks,
    Predictor,
)
from metaphase.core.problem import Classes, Problem
from metaphase.core.settings import STREAM, setting

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.tasks.random_numbers import Random

_DOUBLINGS = 10  # the stationary distribution is that after 2^this steps


@dataclass(frozen=True)
class MarkovChains:
    """A transition matrix over k states, each row from Dirichlet(1, ..., 1); a sequence starts from
    the chain's stationary distribution. There are no inputs: a state is predicted from those before
    it, the first from a start token."""

    states: int = setting(10, "k, states of a chain", STREAM, least=2, greatest=2**6)

    def problem(self) -> Problem:
        """See `core.tasks.TaskFamily`, as for the methods below."""
        return Problem(0, Classes(self.states), start_token=True)

    def parameters(self, task: Random) -> Tensor:
        """Rows of the transition matrices and, as one more row, the stationary distributions:
        (*batch, k + 1, k)."""
        import torch

        rows = task.simplex("rows", self.states, self.states)
        return torch.cat([rows, self._stationary(rows)[..., None, :]], dim=-2)

    def sequences(self, task: Random, sequence: Random, T: int, split: str) -> tuple[None, Tensor]:
        import torch

        # Each row as its sums up to each state; where a uniform number falls among them is the
        # next state. A step is a map from states to states, and so are all steps up to one, which
        # are found by putting maps together in pairs (Hillis and Steele 1986).
        ends = self.parameters(task).cumsum(dim=-1)[..., :-1].contiguous()
        u = sequence.uniform("states", T)[..., None, :].expand(*ends.shape[:-1], T)
        next_ = torch.searchsorted(ends, u.contiguous()).mT
        first, step = next_[..., 0, -1:], next_[..., 1:, :-1].contiguous()
        reach = 1
        while reach < T - 1:
            step = torch.cat(
                [step[..., :reach, :], step[..., reach:, :].gather(-1, step[..., :-reach, :])],
                dim=-2,
            )
            reach *= 2
        later = step.gather(-1, first[..., None, :].expand(*step.shape[:-1], 1))[..., 0]
        return None, torch.cat([first, later], dim=-1)

    def _stationary(self, rows: Tensor) -> Tensor:
        """Where a chain is after 2^_DOUBLINGS steps from a state drawn uniformly, float32; exact to
        rounding unless it hardly ever leaves some states. (*batch, k) of rows (*batch, k, k)."""
        power = rows.double()
        for _ in range(_DOUBLINGS):  # by sums over the last axis, whose order doesn't depend on R
            power = (power[..., :, None, :] * power.mT[..., None, :, :]).sum(dim=-1)
            power = power / power.sum(dim=-1, keepdim=True)
        return power.mean(dim=-2).float()

    def predictors(self) -> dict[str, Predictor]:
        """Unigram or bigram statistics, weighing the chains trained on or inferred from the context
        with the Dirichlet prior (section 3 of the first paper). M and G are the bigram ones. G
        takes nothing from how likely the first state is under the stationary distribution."""
        states = self.states
        return {
            MEMORIZING: FromTasks(
                self._moves,
                lambda p: logarithm(p).flatten(1),
                lambda p: p.flatten(1),
                self._row_of_last,
            ),
            GENERALIZING: FromContext(self._bigrams),
            "unigram_memorizing": FromTasks(
                self._counts,
                lambda p: logarithm(p[:, -1]),
                lambda p: p[:, -1],
                lambda g, x, y: g,
            ),
            "unigram_generalizing": FromContext(lambda x, y: _shares(self._counts(x, y) + 1.0)),
            "no_context": FromContext(
                lambda x, y: y.double().new_full((*y.shape, states), 1.0 / states)
            ),
            "oracle": FromTask(
                lambda p, x, y: self._row_of_last(
                    p.flatten(1)[:, None].expand(-1, y.shape[1], -1), x, y
                )
            ),
        }

    def _counts(self, x: Tensor, y_BxT: Tensor) -> Tensor:
        """How often each state was seen before each position, BxTxk."""
        return sums_before(one_hot(y_BxT, self.states))

    def _moves(self, x: Tensor, y_BxT: Tensor) -> Tensor:
        """How often each transition was seen before each position, BxTx(k + 1)k, and in the last
        row the first state."""
        return sums_before(one_hot(self._last(y_BxT) * self.states + y_BxT, self._cells))

    def _bigrams(self, x: Tensor, y_BxT: Tensor) -> Tensor:
        """The posterior mean of the next state, BxTxk."""
        return _shares(self._row_of_last(self._moves(x, y_BxT) + 1.0, x, y_BxT))

    @property
    def _cells(self) -> int:
        return (self.states + 1) * self.states

    def _last(self, y_BxT: Tensor) -> Tensor:
        """The state before each position; k at the first."""
        last_BxT = y_BxT.new_full(y_BxT.shape, self.states)
        last_BxT[:, 1:] = y_BxT[:, :-1]
        return last_BxT

    def _row_of_last(self, all_BxTxG: Tensor, x: Tensor, y_BxT: Tensor) -> Tensor:
        """Of numbers for each transition those that start where the chain is, BxTxk."""
        table = all_BxTxG.unflatten(-1, (self.states + 1, self.states))
        at = self._last(y_BxT)[..., None, None].expand(*y_BxT.shape, 1, self.states)
        return table.gather(2, at)[:, :, 0]


def _shares(count: Tensor) -> Tensor:
    """Counts BxTxk as shares of their sums over the last axis."""
    return count / count.sum(dim=-1, keepdim=True)
