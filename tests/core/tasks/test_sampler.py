import dataclasses

import pytest
import torch
from scipy import stats

from metaphase.core import schema
from metaphase.core.datasets.images import Images, load_images
from metaphase.core.tasks import projected_inputs
from metaphase.core.tasks.projected_images import FIRST_UNSEEN, permutations, projections
from metaphase.core.tasks.sampler import Sampler, _earlier_equals
from tests.conftest import small_cell

CELLS = [
    small_cell(num_tasks=n, seed=s) for s, n in [(0, 1), (0, 8), (1, 8), (0, 2**20), (3, 2**32)]
]


def make_sampler(cells, device):
    return Sampler(cells, load_images(cells[0], "data", device))


def test_a_batch_is_what_the_definition_says(device):
    sampler = make_sampler(CELLS, device)
    draw = sampler.draw_training(torch.arange(3, 6, device=device))
    batch = sampler.training_batch(draw, torch.tensor([2], device=device))
    images = sampler.images.train
    for r, cell in enumerate(CELLS):
        seed = torch.tensor(cell.seed, device=device)
        for b in (0, 7):
            task = draw.task_SxJxB[r, 2, b]
            assert 0 <= task < cell.num_tasks
            chosen = draw.image_SxJxBxT[r, 2, b]
            assert len(chosen.unique()) == cell.sequence_length
            a = projections(seed, task, cell.input_size).double()
            expected = images.x_IxX[chosen].double() @ a.T
            torch.testing.assert_close(batch.x_RxBxTxX[r, b].double(), expected, rtol=0, atol=1e-5)
            rho = permutations(seed, task, cell.num_classes)
            assert torch.equal(batch.y_RxBxT[r, b], rho[images.y_I[chosen]])


@pytest.mark.parametrize("split", schema.SPLITS)
def test_sequences_dont_depend_on_the_pack(device, split):
    together = make_sampler(CELLS, device)
    steps, sequences = torch.arange(2, device=device), torch.arange(40, 48, device=device)
    for r, cell in enumerate(CELLS):
        alone = make_sampler([cell], device)
        for of_pack, of_one in [
            (
                s.training_batch(s.draw_training(steps), steps[1:]),
                t.training_batch(t.draw_training(steps), steps[1:]),
            )
            if split == schema.TRAIN
            else (s.evaluation_batch(split, sequences), t.evaluation_batch(split, sequences))
            for s, t in [(together, alone)]
        ]:
            assert torch.equal(of_pack.x_RxBxTxX[r], of_one.x_RxBxTxX[0])
            assert torch.equal(of_pack.y_RxBxT[r], of_one.y_RxBxT[0])


def test_the_steps_of_a_draw_dont_depend_on_the_draw(device):
    sampler = make_sampler(CELLS, device)
    many = sampler.draw_training(torch.arange(10, device=device))
    one = sampler.draw_training(torch.tensor([6], device=device))
    assert torch.equal(many.task_SxJxB[:, 6], one.task_SxJxB[:, 0])
    assert torch.equal(many.image_SxJxBxT[:, 6], one.image_SxJxBxT[:, 0])
    assert not torch.equal(many.image_SxJxBxT[:, 5], many.image_SxJxBxT[:, 6])


def two_classes(cell, *counts):
    """A sampler of a cell whose training images are as many as said of each class."""
    sampler = make_sampler([cell], torch.device("cpu"))
    y_I = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    count_C = torch.tensor(counts)
    images = Images(torch.zeros(len(y_I), 16), y_I, count_C.cumsum(0) - count_C, count_C)
    sampler.images = dataclasses.replace(sampler.images, train=images)
    return sampler


def test_labels_before_a_position_say_nothing_about_the_next():
    """The least seen label is the best guess there is when distinct images are drawn from all
    classes at once: right in 0.547 of cases here."""
    cell = small_cell(num_classes=2, sequence_length=36, batch_size=1000)
    sampler = two_classes(cell, 36, 36)
    draw = sampler.draw_training(torch.arange(20))
    image, label = draw.image_SxJxBxT[0].flatten(0, 1), draw.y_SxJxBxT[0].flatten(0, 1)
    assert (image.sort(dim=1).values.diff(dim=1) > 0).all()
    least_seen = (label[:, :-1].sum(dim=1) < 17.5).long()
    assert abs((least_seen == label[:, -1]).double().mean() - 0.5) < 4 * 0.5 / 20_000**0.5
    for position in (0, 35):  # every image is equally likely
        counts = torch.bincount(image[:, position], minlength=72)
        assert stats.chisquare(counts).pvalue > 1e-4
    # and so is every pair of images of a class, of the first two that it has
    first = image[(draw.y_SxJxBxT[0].flatten(0, 1)[:, :2] == 1).all(dim=1)][:, :2] % 36
    pairs = torch.bincount(first[:, 0] * 36 + first[:, 1], minlength=36**2).view(36, 36)
    assert stats.chisquare(pairs[~torch.eye(36, dtype=torch.bool)]).pvalue > 1e-4


def test_unequal_classes_keep_their_shares_and_a_class_that_runs_out_begins_anew():
    cell = small_cell(num_classes=2, sequence_length=30, batch_size=1000)
    sampler = two_classes(cell, 3, 57)
    draw = sampler.draw_training(torch.arange(4))
    image = draw.image_SxJxBxT[0].flatten(0, 1)
    rare = image < 3
    assert abs(rare.double().mean() - 0.05) < 4 * (0.05 * 0.95 / rare.numel()) ** 0.5
    for row in image[rare.sum(dim=1) >= 4][:5]:
        assert row[row < 3][:3].sort().values.tolist() == [0, 1, 2]
    assert all(len(row.unique()) == 30 for row in image[rare.sum(dim=1) <= 3][:20])


@pytest.mark.parametrize("classes", [2, 40])
def test_earlier_examples_of_a_class_are_counted(classes):
    drawn = torch.randint(0, classes, (2, 3, 4, 20), generator=torch.Generator().manual_seed(0))
    counted = _earlier_equals(drawn, classes)
    for index in [(0, 0, 0), (1, 2, 3)]:
        row = drawn[index].tolist()
        assert counted[index].tolist() == [row[:t].count(c) for t, c in enumerate(row)]


def evaluation_tasks(cells, split, count):
    """Task numbers of the first sequences of a split: a row a cell."""
    sampler, tasks = make_sampler(cells, torch.device("cpu")), []
    of_seen_tasks = sampler.inputs.of_seen_tasks

    def noted(images, image_RxBxT, task_RxB):
        tasks.append(task_RxB)
        return of_seen_tasks(images, image_RxBxT, task_RxB)

    sampler.inputs.of_seen_tasks = noted
    for start in range(0, count, 8):
        sampler.evaluation_batch(split, torch.arange(start, start + 8))
    return torch.cat(tasks, dim=1)[:, :count]


@pytest.mark.parametrize("split", [schema.TRAIN, schema.SEEN])
def test_seen_tasks_are_evaluated_equally_often_or_at_most_once(split):
    numbers = [1, 5, 511, 512, 600, 2**20, 2**32]
    cells = [small_cell(num_tasks=n, seed=s) for s in (0, 1) for n in numbers]
    tasks = evaluation_tasks(cells, split, 512)
    for r, cell in enumerate(cells):
        found, times = tasks[r].unique(return_counts=True)
        assert found[0] >= 0
        assert found[-1] < cell.num_tasks
        assert len(found) == min(cell.num_tasks, 512)
        assert times.max() - times.min() <= (cell.num_tasks < 512)
        if cell.num_tasks > 600:  # spread over all there are
            assert stats.kstest(tasks[r].double() / cell.num_tasks, "uniform").pvalue > 1e-3
    assert not torch.equal(tasks[1], tasks[1 + len(numbers)])  # seeds have orders of their own
    alone = evaluation_tasks([cells[2]], split, 512)
    assert torch.equal(alone[0], tasks[2])


def test_cells_of_a_seed_see_the_same_images_and_nested_tasks():
    sampler = make_sampler(CELLS, torch.device("cpu"))
    draw = sampler.draw_training(torch.arange(4))
    assert torch.equal(draw.image_SxJxBxT[0], draw.image_SxJxBxT[3])
    assert not torch.equal(draw.image_SxJxBxT[0], draw.image_SxJxBxT[2])
    assert (draw.task_SxJxB[0] == 0).all()


def test_seen_and_unseen_tasks_never_overlap():
    cell = small_cell(num_tasks=2**32, batch_size=4096)
    sampler = make_sampler([cell], torch.device("cpu"))
    seen = sampler.draw_training(torch.arange(8)).task_SxJxB
    assert seen.max() < FIRST_UNSEEN
    assert seen.max() > 2**31  # and the whole range is used
    # evaluation sequence b of the unseen split has exactly the task 2^32 + b
    batch = sampler.evaluation_batch(schema.UNSEEN, torch.arange(4096))
    rho = permutations(torch.tensor(0), FIRST_UNSEEN + torch.arange(4096), 5)
    held_out = sampler.images.heldout
    inverse = rho.argsort(dim=1).gather(1, batch.y_RxBxT[0])
    assert torch.equal(inverse.unique(), held_out.y_I.unique())


def test_held_out_images_are_never_trained_on():
    images = load_images(small_cell(), "data", "cpu")
    distance = torch.cdist(images.heldout.x_IxX, images.train.x_IxX)
    assert distance.min() > 0


def test_splits_use_the_images_they_should(monkeypatch):
    cell = small_cell(num_tasks=3)
    sampler = make_sampler([cell], torch.device("cpu"))
    identity = torch.eye(cell.input_size).expand(1, 8, -1, -1)
    monkeypatch.setattr(sampler.inputs.seen_tasks, "projections", lambda task, first: identity)
    sequences = torch.arange(8)
    for split, images in [
        (schema.TRAIN, sampler.images.train),
        (schema.SEEN, sampler.images.heldout),
    ]:
        x = sampler.evaluation_batch(split, sequences).x_RxBxTxX.flatten(0, 2)
        distance = (x[:, None] - images.x_IxX).norm(dim=2)
        assert distance.min(dim=1).values.max() < 1e-4


def test_a_share_of_the_seen_tasks_keeps_its_labels_and_the_rest_its_permutation(device):
    shares = [0.0, 0.3, 0.8, 1.0]
    cells = [
        small_cell(num_tasks=2**32, batch_size=2048, sequence_length=5, identity_share=share)
        for share in shares
    ]
    sampler = make_sampler(cells, device)
    draw = sampler.draw_training(torch.arange(2, device=device))
    labels = sampler.images.train.y_I[draw.image_SxJxBxT]
    unbiased = permutations(sampler.seed_S[:, None, None], draw.task_SxJxB, 5).gather(3, labels)
    keeps = (draw.y_SxJxBxT == labels).all(dim=3)
    assert ((draw.y_SxJxBxT == unbiased).all(dim=3) | keeps).all()
    assert torch.equal(draw.y_SxJxBxT[0], unbiased[0])
    by_chance = keeps[0].float().mean().item()
    for share, kept in zip(shares, keeps.flatten(1).float().mean(dim=1).tolist(), strict=True):
        assert abs(kept - (share + (1 - share) * by_chance)) < 4 * (0.25 / 4096) ** 0.5
    assert (keeps[2] | ~keeps[1]).all()  # nested


def test_the_share_falls_linearly_and_evaluation_has_what_is_left(device):
    cells = [
        small_cell(num_tasks=4, identity_share=0.5, identity_steps=100),
        small_cell(num_tasks=4, identity_share=0.5),
        small_cell(num_tasks=4),
    ]
    sampler = make_sampler(cells, device)
    steps = torch.tensor([0, 50, 100, 500], device=device)
    share = sampler._identity_share(steps)
    expected = [[0.5, 0.25, 0.0, 0.0], [0.5] * 4, [0.0] * 4]
    torch.testing.assert_close(share.cpu(), torch.tensor(expected))
    sequences = torch.arange(64, device=device)
    seen = sampler.evaluation_batch(schema.SEEN, sequences).y_RxBxT
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[2])
    unseen = sampler.evaluation_batch(schema.UNSEEN, sequences).y_RxBxT
    assert torch.equal(unseen[1], unseen[2])


def test_a_task_that_keeps_its_labels_does_so_in_every_pack_and_batch():
    cells = [small_cell(num_tasks=64, seed=s, identity_share=0.5) for s in range(2)]
    together = make_sampler([small_cell(num_tasks=2, seed=7), *cells], torch.device("cpu"))
    for r, cell in enumerate(cells, start=1):
        alone = make_sampler([cell], torch.device("cpu")).draw_training(torch.arange(3))
        draw = together.draw_training(torch.arange(3))
        assert torch.equal(draw.y_SxJxBxT[r], alone.y_SxJxBxT[0])


def test_cells_that_share_a_stream_get_the_inputs_they_would_have_alone():
    """Cells equal in seed and number of tasks but, say, not in learning rate."""
    cells = [small_cell(num_tasks=n, learning_rate=r) for n, r in [(8, 1e-3), (8, 1e-2), (3, 1e-3)]]
    shared = make_sampler(cells, torch.device("cpu"))
    assert shared.inputs.shared
    assert len(shared.inputs.first_G) == 2
    for r, cell in enumerate(cells):
        alone = make_sampler([cell], torch.device("cpu"))
        steps = torch.arange(2)
        ours = shared.training_batch(shared.draw_training(steps), steps[1:])
        one = alone.training_batch(alone.draw_training(steps), steps[1:])
        assert torch.equal(ours.x_RxBxTxX[r], one.x_RxBxTxX[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("room", [0, 10, 10**6])
def test_the_kernel_gives_the_plain_inputs(device, precision, room, monkeypatch):
    projection = pytest.importorskip("metaphase.core.kernels.cuda.projection")
    if device.type == "cpu" and not projection.INTERPRETED.value:
        pytest.skip("Triton isn't interpreted")
    cells = [
        small_cell(num_tasks=n, seed=s, precision=precision) for s, n in [(0, 4), (0, 9), (1, 50)]
    ]
    monkeypatch.setitem(projected_inputs.TABLE_BYTES, device.type, room * 16**2 * 4)
    monkeypatch.setattr(projected_inputs, "projection_kernel", lambda device: None)
    plain = make_sampler(cells, device)
    monkeypatch.setattr(projected_inputs, "projection_kernel", lambda device: projection)
    fast = make_sampler(cells, device)
    steps = torch.arange(2, device=device)
    for ours, theirs in [
        tuple(s.training_batch(s.draw_training(steps), steps[1:]) for s in (fast, plain)),
        *(
            tuple(s.evaluation_batch(split, torch.arange(4, device=device)) for s in (fast, plain))
            for split in schema.SPLITS
        ),
    ]:
        error = (ours.x_RxBxTxX.float() - theirs.x_RxBxTxX).norm() / theirs.x_RxBxTxX.norm()
        assert error < (1e-2 if precision == "bf16" else 1e-5)
        assert torch.equal(ours.y_RxBxT, theirs.y_RxBxT)
