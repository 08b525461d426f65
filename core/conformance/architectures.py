"""Checks of architectures."""

from __future__ import annotations

import torch
from torch import Tensor

from metaphase.core.architectures import model
from metaphase.core.architectures.classes import ModuleLayers
from metaphase.core.architectures.parameters import Spec, initialize, views
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.conformance.subject import (
    Broken,
    Subject,
    alone_equals_packed,
    continues_exactly,
    repeats,
    require,
    same,
    theta_of,
    train,
    without_a_host,
)

_B, _R = 3, 2


def parameters_have_shapes(subject: Subject) -> None:
    """`parameters` names Specs, and `apply` gives one output a position that is read."""
    cell = subject.cell()
    specs = _specs(subject, cell)
    require(
        all(isinstance(spec, Spec) for spec in specs.values()),
        "parameters() must give a metaphase Spec (shape, standard deviation) for every name.",
    )
    taken = {"embed_x", "embed_y", "head"} & specs.keys()
    require(not taken, f"The names {', '.join(taken)} are the model's own; choose others.")
    for stride in (1, 2):
        h, outputs = _outputs(subject, cell, stride)
        due = (*h.shape[:2], -(-h.shape[2] // stride), h.shape[3])
        require(
            tuple(outputs.shape) == due,
            f"apply() gives {tuple(outputs.shape)} for inputs {tuple(h.shape)}, stride {stride}; "
            f"needed: {due}, outputs at positions 0, stride, 2 stride ...",
        )


def it_is_causal(subject: Subject) -> None:
    """Outputs depend on no later position."""
    cell = subject.cell()
    h, before = _outputs(subject, cell, 1)
    later = h.clone()
    later[:, :, 5:] += 1.0
    _, after = _outputs(subject, cell, 1, later)
    require(
        same(before[:, :, :5], after[:, :, :5], to_rounding=True),
        "Outputs change when later positions do: a prediction would see its answer. Mask "
        "attention, and normalize no sums over positions.",
    )


def earlier_examples_matter(subject: Subject) -> None:
    """The last output depends on the first position, unless it says that it has no context."""
    if not subject.entry.has_context:
        return
    cell = subject.cell()
    h, before = _outputs(subject, cell, 1)
    earlier = h.clone()
    earlier[:, :, 0] = earlier[:, :, 0].flip(-1) + torch.linspace(-2.0, 2.0, h.shape[-1])
    _, after = _outputs(subject, cell, 1, earlier)
    require(
        not same(before[:, :, -1], after[:, :, -1]),
        "The last output doesn't depend on the first example: nothing can be learned in context. "
        "Say has_context = False if that is meant.",
    )


def replicas_do_not_mix(subject: Subject) -> None:
    """A replica's outputs depend on its own weights and inputs alone."""
    cell = subject.cell()
    h, before = _outputs(subject, cell, 1)
    other = h.clone()
    other[1:] += 1.0
    _, after = _outputs(subject, cell, 1, other)
    require(
        same(before[:1], after[:1], to_rounding=True),
        "A replica's outputs depend on another's inputs: the first axis of all tensors is that of "
        "replicas, and nothing may mix it.",
    )


def every_parameter_is_trained(subject: Subject) -> None:
    """All parameters have a gradient."""
    cell = subject.cell()
    trainer = subject.trainer(cell)
    before = {n: p.detach().clone() for n, p in trainer.stacks[0].parameters.items()}
    try:
        trainer.train(3)
    except ConfigError as error:
        if "don't depend on the parameter" not in str(error):
            raise
        raise Broken(
            "A parameter isn't used: leave out of parameters() what apply() doesn't need."
        ) from None
    still = [n for n, p in trainer.stacks[0].parameters.items() if same(before[n], p.detach())]
    require(
        not still,
        f"Training doesn't move {', '.join(still)}: their gradients are 0. Are they cut off by "
        "detach(), an activation that is always 0, or the output they don't reach?",
    )


def nothing_is_read_back(subject: Subject) -> None:
    """A step with its gradient needs no numbers on the host."""
    cell = subject.cell()
    specs = _specs(subject, cell)
    if isinstance(subject.entry.layers, ModuleLayers):
        return  # its own constants are on the CPU; vmap refuses what reads numbers
    with without_a_host("apply()"):
        flat = torch.zeros(_R, sum(-(-s.size // 16) * 16 for s in specs.values()), device="meta")
        p = {name: view.requires_grad_() for name, view in views(flat, specs).items()}
        h = torch.zeros(_R, _B, model.tokens_fed(cell), cell.model_size, device="meta")
        outputs = subject.entry.layers.apply(p, h, cell, 1)
        torch.autograd.grad(outputs.sum(), list(p.values()), allow_unused=True)


def the_state_is_counted(subject: Subject) -> None:
    """`state_size` is a number of scalars, and 0 only without context."""
    cell = subject.cell()
    size = subject.entry.layers.state_size(cell)
    if size is None and isinstance(subject.entry.layers, ModuleLayers):
        return
    require(
        isinstance(size, int) and (size > 0) == subject.entry.has_context,
        f"state_size() says {size!r}; needed: how many scalars it carries from the examples seen.",
    )
    wider = subject.entry.layers.state_size(subject.cell(model_size=16))
    deeper = subject.entry.layers.state_size(subject.cell(batch_size=8))
    require(
        wider >= size and deeper == size,
        "state_size() must grow with the width if with anything, and not depend on the batch.",
    )


def a_cell_is_itself_in_any_pack(subject: Subject) -> None:
    """A cell trained alone equals the cell trained beside others, to the bit."""
    alone_equals_packed(subject, isinstance(subject.entry.layers, ModuleLayers))


def a_checkpoint_continues_exactly(subject: Subject) -> None:
    """Training that is stopped and goes on equals training that isn't."""
    continues_exactly(subject, isinstance(subject.entry.layers, ModuleLayers))


def seeds_differ(subject: Subject) -> None:
    """Cells of different seeds start from different weights, of the same seed from the same."""
    layers = subject.entry.layers
    if isinstance(layers, ModuleLayers):
        key = layers._key(subject.cell())

        def made() -> Tensor:  # not one that is kept from before
            parameters = layers._make(key, 1).parameters()
            return torch.cat([p.detach().flatten().double() for p in parameters])

        repeats(
            made,
            "Initial weights are others when the module is made again with the same seed. Draw "
            "them from PyTorch's, NumPy's (np.random) or Python's (random) numbers, which are "
            "seeded, not from generators of their own, the clock or what is counted.",
        )
    a, b = (subject.trainer(subject.cell(seed=s)) for s in (1, 2))
    again = subject.trainer(subject.cell(seed=1))
    [one] = [theta_of(a, cell) for cell in a.cells]
    [two] = [theta_of(b, cell) for cell in b.cells]
    [one_again] = [theta_of(again, cell) for cell in again.cells]
    require(
        same(one, one_again) and not same(one, two),
        "Initial weights must be a function of the seed: Spec's `std`, or `initial`, which is "
        "called with it.",
    )
    trained = theta_of(train(a), a.cells[0])
    require(
        bool(trained.isfinite().all()),
        "Weights aren't finite after a few steps: are initial values of the size 1 / sqrt(inputs)?",
    )


def _specs(subject: Subject, cell: Cell) -> dict[str, Spec]:
    specs: dict[str, Spec] = subject.entry.layers.parameters(cell)
    return specs


def _outputs(
    subject: Subject, cell: Cell, stride: int, h_RxBxLxD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) of two replicas; the same inputs unless said."""
    specs = model.parameters(cell)
    p = views(initialize(specs, torch.arange(_R)), specs)
    if h_RxBxLxD is None:
        shape = (_R, _B, model.tokens_fed(cell), cell.model_size)
        h_RxBxLxD = torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7).view(shape)
    try:
        with torch.no_grad():
            outputs: Tensor = subject.entry.layers.apply(p, h_RxBxLxD, cell, stride)
    except ConfigError as error:
        raise Broken(str(error)) from None
    return h_RxBxLxD, outputs


CHECKS = (
    parameters_have_shapes,
    it_is_causal,
    earlier_examples_matter,
    replicas_do_not_mix,
    every_parameter_is_trained,
    seeds_differ,
    nothing_is_read_back,
    the_state_is_counted,
    a_cell_is_itself_in_any_pack,
    a_checkpoint_continues_exactly,
)
