"""Views from other photographs of a case, lesion or patient: which, how often, and never across patients."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dermssl.dataset import store
from dermssl.views.loader import Pool, ViewDataset, make_loader
from dermssl.views.positives import CHOICE_DRAW, SHARE_DRAW, find_partners
from dermssl.views.recipe import ViewOptions
from dermssl.views.sampler import Item, RankBatches, Sampler


def draws(share: float, choice: float) -> np.ndarray:
    numbers = np.zeros(48)
    numbers[SHARE_DRAW], numbers[CHOICE_DRAW] = share, choice
    return numbers


def partners_of(row: int, groups: list, patients: list) -> set[int]:
    """All rows that ``row`` can get."""
    partners = find_partners(np.array(groups, object), np.array(patients, object))
    return {partners.partner(row, 1.0, draws(0, choice)) for choice in np.linspace(0, 0.999, 20)}


def test_a_partner_is_another_row_of_the_group_and_all_are_reached():
    groups = ["a", "b", "a", "c", "a", "b"]
    assert partners_of(0, groups, ["p"] * 6) == {2, 4}
    assert partners_of(2, groups, ["p"] * 6) == {0, 4}
    assert partners_of(5, groups, ["p"] * 6) == {1}


def test_an_image_without_another_photograph_is_its_own_partner():
    assert partners_of(3, ["a", "b", "a", "c"], ["p"] * 4) == {3}


def test_rows_without_an_id_are_nobodys_partner():
    assert partners_of(0, [None, None, "a", np.nan], ["p"] * 4) == {0}


def test_a_group_never_reaches_across_patients():
    groups, patients = ["a"] * 5, ["p", "q", "p", None, None]
    assert partners_of(0, groups, patients) == {2}
    assert partners_of(1, groups, patients) == {1}
    assert partners_of(3, groups, patients) == {4}


def test_partners_are_equally_likely_and_come_as_often_as_asked():
    partners = find_partners(np.array(["a"] * 4), np.array(["p"] * 4))
    random = np.random.default_rng(0)
    chosen = [partners.partner(1, 0.6, random.random(48)) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(chosen) / 4000, [0.2, 0.4, 0.2, 0.2], atol=0.03)


@pytest.fixture
def pool(tmp_path) -> Pool:
    """Eight pictures of one colour each; rows 0, 3 and 6 show one case."""
    jpegs = []
    for level in range(8):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (30 * level,) * 3).save(buffer, "JPEG")
        jpegs.append(buffer.getvalue())
    store.write_shard(tmp_path / store.shard_name(0), jpegs)
    cases = np.array(["a", "b", "c", "a", "d", "e", "a", "f"], object)
    partners = find_partners(cases, np.full(8, "p", object))
    return Pool([store.ImageStore(tmp_path)], np.zeros(8, int), np.arange(8), partners)


def views(share: float, local_count: int) -> ViewOptions:
    plain = {"jitter": 0.0, "blur": [0.0] * 3, "solarize": [0.0] * 3}
    sizes = {"global_size": 16, "local_size": 16, "local_count": local_count}
    return ViewOptions(positives="case", positive_share=share, **plain, **sizes)


def shown(pool: Pool, options: ViewOptions, item: Item) -> list[int]:
    """Row of the picture that each view of an image shows."""
    crops = ViewDataset(pool, options, seed=0).__getitems__([item])
    return [round(float(view.float().mean()) / 30) for group in crops for view in group]


@pytest.mark.parametrize("local_count", [0, 3], ids=["simclr", "dino"])
def test_every_second_view_comes_from_the_other_photograph(pool, local_count):
    first, second, *local = shown(pool, views(1.0, local_count), Item(0, 0, 3))
    assert first == 3 and second in (0, 6)
    assert local == [3, second, 3][:local_count]
    assert shown(pool, views(1.0, local_count), Item(0, 0, 1)) == [1] * (2 + local_count)
    assert shown(pool, views(0.0, local_count), Item(0, 0, 3)) == [3] * (2 + local_count)


def test_the_other_photograph_depends_on_nothing_but_the_item(pool):
    options, sampler = views(0.7, 2), Sampler((8,), None, 4, 0)
    dataset = ViewDataset(pool, options, seed=0)
    whole, in_workers = (list(make_loader(dataset, RankBatches(sampler, 0, 6), n, False)) for n in (0, 2))
    halves = [list(make_loader(dataset, RankBatches(sampler, 0, 6, rank, 2), 0, False)) for rank in range(2)]
    resumed = list(make_loader(dataset, RankBatches(sampler, 4, 6), 0, False))
    for step in range(6):
        for size in range(2):
            assert torch.equal(whole[step][size], in_workers[step][size])
            joined = torch.cat([half[step][size] for half in halves], dim=1)
            assert torch.equal(whole[step][size], joined)
    assert torch.equal(resumed[0][0], whole[4][0])
    assert len({tuple(shown(pool, options, Item(epoch, 0, 0))) for epoch in range(30)}) > 2


def test_positives_change_no_other_random_number(pool):
    item = Item(3, 5, 1)  # has no other photograph
    alone = Pool(pool.stores, pool.store, pool.row)
    options = ViewOptions(global_size=16, local_count=1)
    ours, plain = (ViewDataset(p, options, 0).__getitems__([item]) for p in (pool, alone))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_an_image_that_only_its_partner_may_have_shown_counts_as_seen():
    partners = find_partners(np.array(["a", "b", "a", None, "b", None], object), np.array(["p"] * 6))
    assert partners.paired == 4
    np.testing.assert_array_equal(partners.shown(np.array([3, 0, 0, 0, 0, 2])), [3, 0, 1, 0, 0, 2])


def test_a_data_worker_gets_arrays_however_many_groups_there_are():
    partners = find_partners(np.arange(6) // 2, np.array(["p"] * 6))
    assert all(isinstance(part, np.ndarray) for part in vars(partners).values())
