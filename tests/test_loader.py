"""The loader and its orders: values of batches, what ranks see, threads that end, errors that name the file."""

import hashlib
import threading
import time

import numpy as np
import pytest

from mindcv_models.data.images import UnreadableImageError
from mindcv_models.data.loader import Loader
from mindcv_models.data.order import EpochOrder, GroupedOrder, ShareOrder, StepsOrder
from mindcv_models.errors import InputError, RunError


class Numbers:
    """Sample ``i`` is the number ``i``; those in ``bad`` cannot be decoded."""

    def __init__(self, size, bad=()):
        self.size, self.bad, self.read_so_far = size, set(bad), []

    def __len__(self):
        return self.size

    def read(self, index):
        self.read_so_far.append(index)
        if index in self.bad:
            raise UnreadableImageError(self.name(index), "made so")
        return index

    def name(self, index):
        return f"{index}.png"


def number_and_noise(raw, rng):
    return np.full(2, raw, np.float32), np.int32(raw), rng.random()


def batches(loader, epoch=1, start=0):
    return list(loader.epoch(epoch, start))


def numbers(loader, *place):
    return [batch[1].tolist() for batch in batches(loader, *place)]


def test_batches_do_not_depend_on_threads_or_on_where_an_epoch_is_taken_up():
    one, four = (
        Loader(Numbers(23), EpochOrder(23, seed=5), number_and_noise, 4, workers=workers, prefetch=workers)
        for workers in (1, 4)
    )
    whole = batches(one, 2)
    assert len(one) == len(whole) == 5
    for first, other in zip(whole, batches(four, 2)):
        for a, b in zip(first, other):
            np.testing.assert_array_equal(a, b)
    for first, other in zip(whole[3:], batches(four, 2, 3)):
        np.testing.assert_array_equal(first[2], other[2])
    assert numbers(one, 1) != numbers(one, 2)


def test_the_random_numbers_are_those_of_every_version():
    """What an old run's state is resumed with: a change here changes the batches of every run."""
    digest = hashlib.sha256()
    for rank in range(2):
        order = EpochOrder(11, seed=42, rank=rank, ranks=2)

        def collate(samples, rng):
            return (
                np.array([noise for *_, noise in samples]),
                np.array([index for _, index, _ in samples]),
                rng.random(3),
            )

        for batch in Loader(Numbers(11), order, number_and_noise, 2, collate, last="keep").epoch(7, 1):
            for array in batch:
                digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "94797fe1cb1490a5"


def test_the_last_batch_is_dropped_kept_or_padded():
    def loader(last):
        return Loader(Numbers(7), ShareOrder(7), number_and_noise, 3, last=last)

    assert numbers(loader("drop")) == [[0, 1, 2], [3, 4, 5]]
    assert numbers(loader("keep")) == [[0, 1, 2], [3, 4, 5], [6]]
    padded = batches(loader("pad"))
    assert len(loader("pad")) == 3
    assert [batch[1].tolist() for batch in padded] == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]
    assert [batch[-1].tolist() for batch in padded] == [[True] * 3, [True] * 3, [True, False, False]]
    assert padded[2][0].tolist() == [[6, 6], [0, 0], [0, 0]] and padded[2][0].dtype == np.float32


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 11])
def test_validation_sees_each_sample_once_over_all_ranks(ranks):
    seen = []
    for rank in range(ranks):
        loader = Loader(Numbers(10), ShareOrder(10, rank, ranks), number_and_noise, 2, last="pad")
        seen += [int(n) for batch in loader.epoch() for n, valid in zip(batch[1], batch[-1]) if valid]
    assert sorted(seen) == list(range(10))


def test_what_cannot_be_decoded_is_named_or_replaced_by_the_next():
    order = EpochOrder(6, seed=0, shuffle=False)
    with pytest.raises(UnreadableImageError, match=r"cannot decode image 4\.png \(made so\): .*skip_bad_images"):
        batches(Loader(Numbers(6, [4]), order, number_and_noise, 2))
    assert numbers(Loader(Numbers(6, [4, 5]), order, number_and_noise, 2, replace_bad=True)) == [[0, 1], [2, 3], [0, 0]]
    with pytest.raises(InputError, match="no image of the data set can be decoded"):
        batches(Loader(Numbers(6, range(6)), order, number_and_noise, 2, replace_bad=True))


@pytest.mark.parametrize("failure", [MemoryError("no room"), SystemExit(3), ZeroDivisionError()])
def test_what_a_worker_raises_reaches_the_consumer_with_the_file(failure):
    def dying(raw, rng):
        if raw == 5:
            raise failure
        return number_and_noise(raw, rng)

    loader = Loader(Numbers(12), EpochOrder(12, seed=0, shuffle=False), dying, 2, workers=3)
    done = loader.epoch()
    assert [next(done)[1].tolist(), next(done)[1].tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(RunError, match=rf"a data worker died \({type(failure).__name__}.* at 5\.png\)") as raised:
        next(done)
    assert raised.value.__cause__ is failure
    assert not data_threads()


def test_what_fails_in_collate_reaches_the_consumer():
    def dying(samples, rng):
        raise ValueError("shapes differ")

    with pytest.raises(RunError, match=r"a data worker died \(ValueError: shapes differ\)"):
        batches(Loader(Numbers(4), EpochOrder(4, seed=0), number_and_noise, 2, dying))


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_no_more_is_made_ahead_than_bounded_and_closing_early_ends_the_threads():
    source = Numbers(1000)
    loader = Loader(source, EpochOrder(1000, seed=0), number_and_noise, 10, workers=2, prefetch=3)
    epoch = loader.epoch()
    next(epoch)
    time.sleep(0.2)
    assert 0 < len(data_threads()) <= 2
    assert len(source.read_so_far) <= 10 * (1 + 2 + 3)
    epoch.close()
    assert not data_threads()


def test_an_epoch_of_a_number_of_steps_goes_on_where_the_last_one_ended():
    passes = EpochOrder(10, seed=1)
    order = StepsOrder(passes, steps=3, batch_size=2)
    shown = np.concatenate([order(epoch) for epoch in range(1, 6)])
    assert len(order) == 6 and len(shown) == 30
    for number in range(3):
        assert shown[10 * number : 10 * number + 10].tolist() == passes(number + 1).tolist()
    longer = StepsOrder(passes, steps=13, batch_size=2)
    np.testing.assert_array_equal(longer(1)[:26], shown[:26])
    np.testing.assert_array_equal(longer(2)[:4], shown[26:])
    loader = Loader(Numbers(10), order, number_and_noise, 2)
    assert len(loader) == 3
    assert np.concatenate(numbers(loader, 2)).tolist() == shown[6:12].tolist()


def test_epochs_of_steps_on_several_ranks_share_each_pass():
    orders = [StepsOrder(EpochOrder(12, seed=1, rank=rank, ranks=3), 1, 4) for rank in range(3)]
    for epoch in (1, 2):
        assert sorted(np.concatenate([order(epoch) for order in orders])) == list(range(12))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_grouped_batch_has_one_group_and_all_ranks_have_the_same(ranks):
    groups = np.array([0, 1, 0, 0, 2, 1, 0, 1, 0, 0, 0, 1, 0])
    orders = [GroupedOrder(groups, 2, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    shown = np.stack([order(4) for order in orders], 1)  # (places, ranks)
    assert all(len(order) == len(shown) for order in orders)
    of_step = groups[shown].reshape(-1, 2 * ranks)
    assert (of_step == of_step[:, :1]).all()
    assert set(shown.ravel()) == set(range(13))
    counts = np.bincount(shown.ravel(), minlength=13)
    for group, members in ((0, 8), (1, 4), (2, 1)):
        extra = -members % (2 * ranks)  # filled up, by as little as possible
        assert counts[groups == group].sum() == members + extra
    assert not np.array_equal(orders[0](4), orders[0](5))
    np.testing.assert_array_equal(orders[0](4), GroupedOrder(groups, 2, seed=3, ranks=ranks)(4))


def test_groups_without_shuffling_come_in_order():
    order = GroupedOrder(np.array([1, 0, 1, 0, 1]), 2, seed=0, shuffle=False)
    assert order(1).tolist() == [1, 3, 0, 2, 4, 0]
    passes = StepsOrder(order, steps=2, batch_size=2)
    assert [passes(epoch).tolist() for epoch in (1, 2, 3)] == [[1, 3, 0, 2], [4, 0, 1, 3], [0, 2, 4, 0]]
