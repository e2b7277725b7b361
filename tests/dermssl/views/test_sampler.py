import numpy as np
import pytest

from dermssl.errors import InputError
from dermssl.views.sampler import RankBatches, Sampler, epoch_rows, parse_weights


def make(sizes=(23, 9), shares=None, batch=8, seed=3):
    return Sampler(sizes, shares, batch, seed)


def test_an_epoch_holds_every_row_once():
    assert sorted(epoch_rows(make(), 4)) == list(range(32))


def test_epochs_and_seeds_differ():
    assert not np.array_equal(epoch_rows(make(), 0), epoch_rows(make(), 1))
    assert not np.array_equal(epoch_rows(make(), 0), epoch_rows(make(seed=4), 0))


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 8)])
def test_ranks_and_micro_steps_cut_the_same_global_batch(ranks, accumulation):
    sampler = make()
    batches = [list(RankBatches(sampler, 2, 6, rank, ranks, accumulation)) for rank in range(ranks)]
    for step in range(2, 6):
        micro = range((step - 2) * accumulation, (step - 1) * accumulation)
        joined = [item for m in micro for rank in range(ranks) for item in batches[rank][m]]
        assert joined == sampler.items(step)


def test_starting_late_yields_what_an_early_start_would_have():
    everything = list(RankBatches(make(), 0, 10))
    assert list(RankBatches(make(), 7, 10)) == everything[7:]


def test_equal_weights_give_each_set_its_half_and_every_row_its_turn():
    sampler = make(sizes=(30, 10), shares=parse_weights(["equal"], ["a", "b"]), batch=10)
    for epoch in range(3):
        assert (epoch_rows(sampler, epoch) >= 30).sum() == 20
    seen = sampler.times_seen(3 * sampler.steps_per_epoch)
    assert set(seen[:30]) == {2} and set(seen[30:]) == {6}


def test_times_seen_counts_what_the_batches_hold():
    sampler = make(batch=5)
    counted = np.zeros(32, int)
    for step in range(17):
        for item in sampler.items(step):
            counted[item.row] += 1
    np.testing.assert_array_equal(sampler.times_seen(17), counted)


@pytest.mark.parametrize("weights", [["0.5"], ["a", "b"], ["-1", "2"], ["0", "0"], ["sizes"]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(InputError, match=r"data\.weights"):
        parse_weights(weights, ["a", "b"])
