"""Bursty, skewed and noisy training, and evaluations of what weights know."""

import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from metaphase.core import schema
from metaphase.core.datasets.images import load_images
from metaphase.core.tasks.projected_images import permutations
from metaphase.core.tasks.sampler import Sampler
from tests.conftest import small_cell


def sampler_of(*settings, **shared):
    cells = [small_cell(**shared, **own) for own in settings]
    return Sampler(cells, load_images(cells[0], "data", "cpu"))


def classes_of(sampler, draw):
    return sampler.images.train.y_I[draw.image_SxJxBxT]


def test_a_share_of_the_training_sequences_is_bursty_and_the_others_are_as_before():
    shares = [0.0, 0.3, 1.0]
    own = [{"burstiness": share} for share in shares] + [{"burstiness": 1.0, "burst_classes": 3}]
    shared = {"batch_size": 500, "sequence_length": 16, "num_tasks": 9}
    sampler = sampler_of(*own, **shared)
    draw, plain = (s.draw_training(torch.arange(4)) for s in (sampler, sampler_of({}, **shared)))
    drawn = classes_of(sampler, draw)
    assert torch.equal(draw.image_SxJxBxT[0], plain.image_SxJxBxT[0])
    assert torch.equal(draw.task_SxJxB[1], plain.task_SxJxB[0])
    number = torch.nn.functional.one_hot(drawn, 5).amax(dim=3).sum(dim=3)  # of classes
    same = (draw.image_SxJxBxT[1] == plain.image_SxJxBxT[0]).all(dim=2)
    assert abs((~same).double().mean() - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    assert number[1][~same].max() <= 2
    assert torch.equal(draw.image_SxJxBxT[1][~same], draw.image_SxJxBxT[2][~same])  # nested
    assert number[2].max() == 2
    assert number[3].max() == 3
    # each pair of classes, and each of its classes, equally likely
    pairs = torch.nn.functional.one_hot(drawn[2], 5).amax(dim=2).flatten(0, 1)
    pairs = pairs[number[2].flatten() == 2]
    found = torch.unique(pairs, dim=0, return_counts=True)[1]
    assert len(found) == 10
    assert stats.chisquare(found).pvalue > 1e-3
    first = (drawn[2] == drawn[2][:, :, :1])[:, :, 1:].double().mean()
    assert abs(first - 0.5) < 4 * 0.5 / 2000**0.5
    for row in draw.image_SxJxBxT[2, 0, :20]:  # other images of a class each time
        assert len(row.unique()) == 16


def test_a_share_of_the_training_labels_is_noise():
    shared = {"batch_size": 500, "sequence_length": 16, "num_tasks": 9}
    shares = [0.0, 0.2, 1.0]
    sampler = sampler_of(*({"label_noise": share} for share in shares), **shared)
    draw = sampler.draw_training(torch.arange(4))
    clean = sampler_of({}, **shared).draw_training(torch.arange(4)).y_SxJxBxT[0]
    y = draw.y_SxJxBxT
    assert torch.equal(y[0], clean)
    n = clean.numel()
    for share, noisy in zip(shares, y, strict=True):
        changed = (noisy != clean).double().mean()
        assert abs(changed - share * 4 / 5) < 4 * 0.5 / n**0.5 * (share > 0) + 1e-9
    assert stats.chisquare(torch.bincount((y[2] - clean).remainder(5).flatten())).pvalue > 1e-3
    assert ((y[1] == clean) | (y[1] == y[2])).all()  # nested
    changes = (y[1] != clean).double().flatten(0, 1)  # at any position, independently
    assert stats.chisquare(changes.sum(dim=0)).pvalue > 1e-3
    assert abs(torch.corrcoef(changes[:, :2].T)[0, 1]) < 4 / 2000**0.5


def test_tasks_of_a_stream_follow_its_own_law_and_others_are_as_before():
    own = [
        {"zipf_exponent": a, "seed": s, "num_tasks": n}
        for a, s, n in [(1.0, 1, 50), (0.0, 0, 50), (2.0, 0, 2**32), (1.0, 0, 50)]
    ]
    sampler, steps = sampler_of(*own, batch_size=512), torch.arange(4)
    tasks = sampler.draw_training(steps).task_SxJxB
    plain = sampler_of(own[1], batch_size=512).draw_training(steps).task_SxJxB
    assert torch.equal(tasks[1], plain[0])
    assert not torch.equal(tasks[0], tasks[3])
    share = torch.arange(1, 51).double() ** -1
    expected = share / share.sum() * 2048
    assert stats.chisquare(torch.bincount(tasks[3].flatten(), minlength=50), expected).pvalue > 1e-3
    assert tasks[2].max() < 2**32


@pytest.mark.parametrize(
    "setting", [{"zipf_exponent": 1.2}, {"burstiness": 0.5}, {"label_noise": 0.4}]
)
def test_evaluations_are_clean_but_for_tasks_that_training_sees_more_often(setting):
    skewed, plain = (sampler_of(s, num_tasks=64) for s in (setting, {}))
    for split in (*schema.SPLITS, *schema.RELABELLED):
        ours, theirs = (s.evaluation_batch(split, torch.arange(128)) for s in (skewed, plain))
        same = torch.equal(ours.x_RxBxTxX, theirs.x_RxBxTxX)
        assert same == ("zipf_exponent" not in setting or split in (schema.SEEN, schema.UNSEEN))
        if same:
            assert torch.equal(ours.y_RxBxT, theirs.y_RxBxT)


def test_relabelled_sequences_are_those_of_seen_with_labels_of_their_own():
    sampler = sampler_of({"num_tasks": 16}, {"num_tasks": 4, "seed": 2}, sequence_length=16)
    numbers = torch.arange(400)
    seen, weights, context = (
        sampler.evaluation_batch(split, numbers) for split in (schema.SEEN, *schema.RELABELLED)
    )
    assert torch.equal(weights.x_RxBxTxX, seen.x_RxBxTxX)
    assert torch.equal(weights.judged.y_RxBxT, seen.y_RxBxT)
    assert torch.equal(context.x_RxBxTxX, seen.x_RxBxTxX)
    assert torch.equal(context.y_RxBxT, weights.y_RxBxT)
    assert context.judged is context
    # what is shown is the task's labels permuted, and says nothing about which they are
    pairs = seen.y_RxBxT * 5 + weights.y_RxBxT
    for sequence in (0, 7, 300):
        shown = pairs[0, sequence].unique()
        assert len(shown) == len(seen.y_RxBxT[0, sequence].unique())
    last = torch.bincount(pairs[:, :, -1].flatten(), minlength=25).view(5, 5)
    assert stats.chi2_contingency(last).pvalue > 1e-3
    of_stream = weights.replicas(torch.tensor([1, 1, 0]))
    assert torch.equal(of_stream.judged.y_RxBxT[2], seen.y_RxBxT[0])


def test_labels_of_a_sequences_own_are_any_permutation():
    sampler = sampler_of({}, num_classes=3, sequence_length=16)
    batch = sampler.evaluation_batch(schema.IN_CONTEXT, torch.arange(600))
    rho = permutations(torch.tensor(0), torch.tensor(0), 3)
    weights = sampler.evaluation_batch(schema.IN_WEIGHTS, torch.arange(600)).judged.y_RxBxT[0]
    label = rho.argsort()[weights]
    code = torch.zeros(600, dtype=torch.int64)
    for c in range(3):
        is_c = label == c
        shown = torch.where(is_c, batch.y_RxBxT[0], -1).amax(dim=1)
        code = code * 4 + shown + 1
    whole = code[[all((label[b] == c).any() for c in range(3)) for b in range(600)]]
    counts = whole.unique(return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_packs_give_what_streams_have_alone():
    own = [
        {"num_tasks": 2**20, "zipf_exponent": 1.0, "burstiness": 0.5, "seed": 3},
        {"num_tasks": 8, "label_noise": 0.3},
        {"num_tasks": 8},
        {"num_tasks": 8, "zipf_exponent": 0.5, "burstiness": 1.0, "burst_classes": 1},
        {"num_tasks": 100, "burstiness": 0.5, "burst_classes": 4, "label_noise": 1.0, "seed": 3},
    ]
    together, steps, numbers = sampler_of(*own), torch.arange(2), torch.arange(40, 48)
    for r, settings in enumerate(own):
        alone = sampler_of(settings)
        pairs = [
            [s.training_batch(s.draw_training(steps), steps[1:]) for s in (together, alone)]
        ] + [
            [s.evaluation_batch(split, numbers) for s in (together, alone)]
            for split in (*schema.SPLITS, *schema.RELABELLED)
        ]
        for of_pack, of_one in pairs:
            assert torch.equal(of_pack.x_RxBxTxX[r], of_one.x_RxBxTxX[0])
            assert torch.equal(of_pack.y_RxBxT[r], of_one.y_RxBxT[0])
            assert torch.equal(of_pack.judged.y_RxBxT[r], of_one.judged.y_RxBxT[0])


class WithoutHost(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for: numbers read, shapes that depend on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func is torch.ops.aten.index.Tensor and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        assert not masks
        assert func.overloadpacket not in (
            *(torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero),
            *(torch.ops.aten.masked_select, torch.ops.aten._unique2),
        )
        return func(*args, **(kwargs or {}))


def test_steps_are_drawn_without_looking_at_numbers_on_the_host(monkeypatch):
    settings = {"zipf_exponent": 1.0, "burstiness": 0.5, "label_noise": 0.1, "num_tasks": 64}
    sampler, steps = sampler_of(settings), torch.arange(2)
    monkeypatch.setattr(torch.Tensor, "tolist", None)
    with WithoutHost():
        draw = sampler.draw_training(steps)
        with pytest.raises(AssertionError):
            draw.y_SxJxBxT.sum().item()
