"""What a good engineer would write instead: the baselines of the throughput benchmark.

`PlainTransformer` is an ordinary nn.Module of the very model that core trains. `EagerCell` trains
one of it as a straightforward script does; `VmapPack` trains R of them through torch.func,
compiled. Both draw tasks the cheap way: from a table where it fits into memory, else fresh from
torch's own generator, which is what a very large number of tasks amounts to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaphase.core.cell import Cell
from metaphase.core.datasets.images import load_images

TABLE_BYTES = 2 * 2**30


class Block(nn.Module):
    def __init__(self, cell: Cell, spelled_out: bool) -> None:
        super().__init__()
        self.spelled_out = spelled_out
        D, HK, M = cell.model_size, cell.num_heads * cell.key_size, cell.mlp_units
        self.heads = cell.num_heads
        self.norm1 = nn.LayerNorm(D, elementwise_affine=False)
        self.qkv = nn.Linear(D, 3 * HK, bias=False)
        self.out = nn.Linear(HK, D, bias=False)
        self.norm2 = nn.LayerNorm(D, elementwise_affine=False)
        self.up = nn.Linear(D, M)
        self.down = nn.Linear(M, D, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        B, S, _ = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.spelled_out:  # vmap has no rule for the fused attention of CPUs
            mask = torch.ones(S, S, dtype=torch.bool, device=h.device).tril()
            scores = (q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
            mixed = scores.softmax(dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).reshape(B, S, -1))
        return h + self.down(F.relu(self.up(self.norm2(h))))


class PlainTransformer(nn.Module):
    """The model of core.architectures.model with learned positions, for one cell."""

    def __init__(self, cell: Cell, spelled_out: bool = False) -> None:
        super().__init__()
        D, C, T = cell.model_size, cell.num_classes, cell.sequence_length
        self.interleaved = cell.token_format == "interleaved"
        self.num_classes = C
        self.embed_x = nn.Linear(cell.input_size, D, bias=False)
        self.embed_y = nn.Linear(C, D, bias=False)
        self.positions = nn.Parameter(0.02 * torch.randn(T * (1 + self.interleaved), D))
        self.blocks = nn.ModuleList(Block(cell, spelled_out) for _ in range(cell.num_layers))
        self.norm = nn.LayerNorm(D, elementwise_affine=False)
        self.head = nn.Linear(D, C, bias=False)

    def forward(self, x: Tensor, onehot: Tensor) -> Tensor:
        x, y = self.embed_x(x), self.embed_y(onehot)
        if self.interleaved:
            h = torch.stack([x, x + y], dim=2).flatten(1, 2)
        else:
            h = x + F.pad(y[:, :-1], (0, 0, 1, 0))
        h = h + self.positions
        for block in self.blocks:
            h = block(h)
        if self.interleaved:
            h = h[:, ::2]
        return self.head(self.norm(h))


class Tasks:
    """Batches of sequences, for `copies` cells at once (leading axis, absent for one)."""

    def __init__(self, cell: Cell, data_root: str, device: torch.device, copies: int = 0) -> None:
        self.cell, self.device = cell, device
        self.lead = (copies,) if copies else ()
        self.images = load_images(cell, data_root, device).train
        size, N = cell.input_size, cell.num_tasks
        self.scale = size**-0.5
        self.tabled = N * size * size * 4 <= TABLE_BYTES
        if self.tabled:
            self.table = torch.randn(N, size, size, device=device) * self.scale
            self.permutations = torch.rand(N, cell.num_classes, device=device).argsort(dim=1)

    def batch(self) -> tuple[Tensor, Tensor]:
        cell, device = self.cell, self.device
        shape = (*self.lead, cell.batch_size)
        index = torch.randint(self.images.count, (*shape, cell.sequence_length), device=device)
        if self.tabled:
            task = torch.randint(cell.num_tasks, shape, device=device)
            a, rho = self.table[task], self.permutations[task]
        else:
            size = cell.input_size
            a = torch.randn(*shape, size, size, device=device) * self.scale
            rho = torch.rand(*shape, cell.num_classes, device=device).argsort(dim=-1)
        x = self.images.x_IxX[index] @ a.transpose(-1, -2)
        return x, rho.gather(-1, self.images.y_I[index])


class EagerCell:
    """(a): one cell, plain eager code, torch's own Adam; autocast where the cell asks for bf16."""

    def __init__(self, cell: Cell, data_root: str, device: torch.device) -> None:
        torch.manual_seed(cell.seed)
        self.cell, self.device = cell, device
        self.model = PlainTransformer(cell).to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=cell.learning_rate, fused=True
        )
        self.tasks = Tasks(cell, data_root, device)

    def step(self) -> None:
        x, y = self.tasks.batch()
        onehot = F.one_hot(y, self.cell.num_classes).float()
        with torch.autocast(self.device.type, torch.bfloat16, self.cell.precision == "bf16"):
            logits = self.model(x, onehot)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class VmapPack:
    """(c): R cells through torch.func.vmap over stacked modules; forward and backward compiled."""

    def __init__(self, cell: Cell, replicas: int, data_root: str, device: torch.device) -> None:
        torch.manual_seed(cell.seed)
        self.cell = cell
        spelled_out = device.type == "cpu"
        modules = [PlainTransformer(cell, spelled_out).to(device) for _ in range(replicas)]
        self.parameters, _ = torch.func.stack_module_state(modules)  # type: ignore[arg-type]
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=cell.learning_rate, fused=True
        )
        self.tasks = Tasks(cell, data_root, device, replicas)
        skeleton = modules[0].to("meta")
        half = cell.precision == "bf16"

        def loss_of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            # F.one_hot reads its argument on the host, which vmap can't
            onehot = (y[..., None] == torch.arange(cell.num_classes, device=device)).float()
            with torch.autocast(device.type, torch.bfloat16, half):
                logits = torch.func.functional_call(skeleton, parameters, (x, onehot))
            return F.cross_entropy(logits.float().flatten(0, 1), y.flatten())

        gradients = torch.func.vmap(torch.func.grad(loss_of_one))
        # CUDA graphs where there is CUDA: the best that a flag gets
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self.gradients = torch.compile(gradients, mode=mode, dynamic=False)

    def step(self) -> None:
        x, y = self.tasks.batch()
        gradients = self.gradients(self.parameters, x, y)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()
