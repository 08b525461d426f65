"""Architectures of the user's: classes whose methods are the functions of
`core.architectures.Layers`, and ordinary `torch.nn.Module` classes."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter

from metaphase.core.architectures.model import tokens_fed
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.devices import is_of_a_device
from metaphase.core.settings import as_line

# Packs may be trained in several threads. Making and calling modules uses what a process has once:
# PyTorch's random numbers and choice of attention, the module whose weights are exchanged.
_one_thread = threading.RLock()

_TENSORS_A_LAYER = 8  # of width D that a layer keeps for its backward pass, where it doesn't say


class ClassLayers:
    """The layers of a dataclass with the methods `parameters(cell)`, `state_size(cell)` and
    `apply(p, h_RxBxLxD, cell, stride)`; `forward_flops(cell)` and `activations(cell)` are estimated
    where it has none. Its fields are settings of the cell.

    Args:
        own: the names of these settings.
    """

    def __init__(self, cls: type, own: tuple[str, ...]) -> None:
        self._cls, self._own = cls, own

    def _of(self, cell: Cell) -> Any:
        return self._cls(**{name: getattr(cell, name) for name in self._own})

    def _said(self, method: str, cell: Cell) -> Any:
        """What a method says of a cell."""
        try:
            return getattr(self._of(cell), method)(cell)
        except (ConfigError, MemoryError):
            raise
        except Exception as error:
            raise ConfigError(f"{self._named(method)} fails: {as_line(error)}") from error

    def _named(self, method: str) -> str:
        return f"architecture: {self._cls.__name__}.{method}()"

    def _count(self, method: str, cell: Cell) -> int:
        """What a method says, if it is a number of something."""
        said = self._said(method, cell)
        try:
            count = int(said)
        except (TypeError, ValueError, OverflowError):
            count = -1
        if count < 0 or isinstance(said, str):
            needed = "a whole number, at least 0"
            raise ConfigError(f"{self._named(method)} says {said!r}; needed: {needed}")
        return count

    def parameters(self, cell: Cell) -> dict[str, Spec]:
        """See `core.architectures.Layers`, as for all others."""
        specs: dict[str, Spec] = self._said("parameters", cell)
        for name, spec in specs.items() if isinstance(specs, dict) else [("", specs)]:
            if not (name and isinstance(name, str) and isinstance(spec, Spec) and spec.is_sound):
                said = f"{name!r}: {spec!r}" if name else f"{spec!r}"
                raise ConfigError(
                    f"{self._named('parameters')} says {said}; needed: texts, each with a "
                    "Spec(shape, std) of whole numbers, at least 1, and a finite number"
                )
        return specs

    def apply(self, p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
        """Outputs at the positions 0, stride, 2 stride ..."""
        result: Tensor = self._of(cell).apply(p, h_RxBxLxD, cell, stride)
        R, B, L, D = h_RxBxLxD.shape
        due = (R, B, -(-L // stride), D)
        where = ", outputs at positions 0, stride, 2 stride ..."
        return _of_shape(result, due, f"{self._cls.__name__}.apply()", where)

    def state_size(self, cell: Cell) -> int:
        """Scalars carried from a whole sequence."""
        return self._count("state_size", cell)

    def forward_flops(self, cell: Cell) -> int:
        """Operations of a batch: two for each weight and token, where it doesn't say."""
        if hasattr(self._cls, "forward_flops"):
            return self._count("forward_flops", cell)
        return _flops(self.parameters(cell), cell)

    def activations(self, cell: Cell) -> int:
        """Numbers of a sequence that the backward pass needs."""
        if hasattr(self._cls, "activations"):
            return self._count("activations", cell)
        return _activations(self.parameters(cell), cell)


class ModuleLayers:
    """The layers of a `torch.nn.Module` class: it is made with the width D, the number of tokens L
    and its own settings, and its `forward` takes h_BxLxD to outputs of the same shape.

    Replicas are stacked by `torch.func.vmap`, so that what a cell's numbers are depends on its pack
    to rounding. A replica's initial weights are those that the class gives itself after PyTorch's,
    NumPy's and Python's random numbers are seeded with the cell's seed.

    Args:
        own: the names of its own settings.
    """

    def __init__(self, cls: type[nn.Module], own: tuple[str, ...]) -> None:
        self._cls, self._own = cls, own
        self._made = functools.lru_cache(maxsize=8)(self._make)
        self._stacked = functools.lru_cache(maxsize=8)(self._stack)
        self._worked: set[tuple] = set()  # keys of modules that have given outputs

    def _make(self, key: tuple, seed: int) -> nn.Module:
        width, tokens, own = key
        with _one_thread, seeded(seed), torch.device("cpu"):
            try:
                module: nn.Module = self._cls(width, tokens, **dict(own))
                parameters, buffers = dict(module.named_parameters()), list(module.buffers())
            except (ConfigError, MemoryError):
                raise
            except Exception as error:
                said = f"architecture: {self._cls.__name__}({width}, {tokens}) can't be made"
                raise ConfigError(f"{said}: {as_line(error)}") from error
        if any(buffer.requires_grad for buffer in buffers):
            raise ConfigError(f"architecture: {self._cls.__name__} has buffers that are trained")
        for name, p in parameters.items():
            if isinstance(p, UninitializedParameter) or not p.is_floating_point():
                kind = "of no shape" if isinstance(p, UninitializedParameter) else p.dtype
                needed = "floating-point numbers of a known shape"
            elif not p.requires_grad:
                kind, needed = "not trained", "all are; register_buffer() keeps what stays"
            else:
                continue
            said = f"architecture: the parameter {name} of {self._cls.__name__} is {kind}"
            raise ConfigError(f"{said}; needed: {needed}")
        return module

    def _key(self, cell: Cell) -> tuple:
        own = tuple((name, getattr(cell, name)) for name in self._own)
        return cell.model_size, tokens_fed(cell), own

    def parameters(self, cell: Cell) -> dict[str, Spec]:
        """See `core.architectures.Layers`, as for all others."""
        key = self._key(cell)

        def initial(name: str, seed: int) -> Tensor:
            with _one_thread:
                return self._made(key, seed).get_parameter(name).detach().float()

        with _one_thread:
            return {
                name: Spec(tuple(p.shape), 0.0, initial=functools.partial(initial, name))
                for name, p in self._made(key, 0).named_parameters()
            }

    def apply(self, p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
        """Outputs at the positions 0, stride, 2 stride ..."""
        key = self._key(cell)
        module = self._made(key, 0)
        with _one_thread, sdpa_kernel(SDPBackend.MATH):  # the one that knows stacked tensors
            if h_RxBxLxD.device.type != "cpu":
                module.to(h_RxBxLxD.device)
            weights = {name: p[name] for name, _ in module.named_parameters()}
            before = _versions(module)
            try:
                result_RxBxLxD = self._stacked(key)(weights, h_RxBxLxD)
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                if key in self._worked or is_of_a_device(error):
                    raise
                line = as_line(error)
                raise ConfigError(
                    f"architecture: {self._cls.__name__} can't be stacked by torch.func.vmap, "
                    "which knows no dropout, no running statistics and no fused recurrent layers, "
                    f"and wants one output a token: {line}"
                ) from error
            name = f"{self._cls.__name__}.forward()"
            result_RxBxLxD = _of_shape(result_RxBxLxD, tuple(h_RxBxLxD.shape), name)
            if key not in self._worked:
                changed = "buffers, which all cells share" * (_versions(module) != before)
                changed = changed or self._changes_again(key, weights, h_RxBxLxD, result_RxBxLxD)
                if changed:
                    raise ConfigError(
                        f"architecture: {name} changes {changed}; "
                        "needed: outputs that depend on weights and inputs alone"
                    )
        self._worked.add(key)
        return result_RxBxLxD[:, :, ::stride]

    @torch.no_grad()
    def _changes_again(
        self, key: tuple, weights: dict[str, Tensor], h_RxBxLxD: Tensor, before_RxBxLxD: Tensor
    ) -> str:
        """What else than the module's first call changes when it is called once more; "" if
        nothing. The first call may keep what it has computed, a mask for instance."""
        module = self._made(key, 0)
        before = _plain_attributes(module)
        again_RxBxLxD = self._stacked(key)(weights, h_RxBxLxD)
        for name, value in _plain_attributes(module).items():
            if before.get(name) != value:
                return f"its attribute {name}, which no checkpoint keeps"
        # On other devices sums may be in another order each time.
        if h_RxBxLxD.device.type == "cpu" and not torch.allclose(
            again_RxBxLxD, before_RxBxLxD, rtol=0, atol=0, equal_nan=True
        ):
            return "its outputs from call to call"
        return ""

    def _stack(self, key: tuple) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        """The module as a function of stacked weights and inputs."""
        module = self._made(key, 0)

        def one(weights: dict[str, Tensor], h_BxLxD: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(module, weights, (h_BxLxD,))
            return result

        stacked: Callable[[dict[str, Tensor], Tensor], Tensor] = torch.func.vmap(one)
        return stacked

    def state_size(self, cell: Cell) -> int | None:
        """What its method `state_size` says, if it has one."""
        said = getattr(self._made(self._key(cell), 0), "state_size", None)
        return None if said is None else int(said() if callable(said) else said)

    def forward_flops(self, cell: Cell) -> int:
        """Operations of a batch: two for each weight of a matrix and token."""
        return _flops(self.parameters(cell), cell)

    def activations(self, cell: Cell) -> int:
        """Numbers of a sequence that the backward pass needs, estimated."""
        return _activations(self.parameters(cell), cell)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the random numbers that a process has are those of a seed; afterwards they are what
    they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and not those of GPUs
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def _of_shape(result: Any, due: tuple[int, ...], said: str, where: str = "") -> Tensor:
    """What a class gives, if it is a tensor of this shape."""
    if not isinstance(result, Tensor) or tuple(result.shape) != due:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ConfigError(f"architecture: {said} gives {got}; needed: {due}{where}")
    return result


def _versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """What tells whether a module's buffers have been changed or exchanged."""
    return {name: (id(b), b._version) for name, b in module.named_buffers()}


def _plain_attributes(module: nn.Module) -> dict[str, str]:
    """The numbers, texts and containers of them that a module and its parts have as attributes."""
    return {
        ".".join(filter(None, (part, name))): repr(value)
        for part, submodule in module.named_modules()
        for name, value in vars(submodule).items()
        if _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    """Whether a value is a number or a text, or is made of nothing else."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _flops(specs: dict[str, Spec], cell: Cell) -> int:
    weights = sum(math.prod(spec.shape) for spec in specs.values() if len(spec.shape) > 1)
    return 2 * cell.batch_size * cell.num_tokens * weights


def _activations(specs: dict[str, Spec], cell: Cell) -> int:
    wide = sum(max(1, spec.shape[-1] // cell.model_size) for spec in specs.values() if spec.shape)
    return cell.num_tokens * cell.model_size * (_TENSORS_A_LAYER + 2 * wide)
