"""Scores, their background, and the threshold that follows."""

import numpy as np
from scipy.stats import poisson

from dermeval.leaks.certainty import (
    background_of,
    false_discovery_rate,
    false_match_ratios,
    mirrored_copies,
    poisson_bound,
    threshold_of,
    world_scores,
    would_be_confirmed,
)
from dermeval.leaks.verify import EVIDENCE


def evidence(seed: int, false: int, true: int) -> np.ndarray:
    """Chance in both worlds for ``false`` pairs; ``true`` pairs with many inliers as they stand."""
    random = np.random.default_rng(seed)
    made = np.zeros(false + true, EVIDENCE)
    made["inliers"] = random.geometric(0.6, (false + true, 2)) + 1
    made["correlation"] = np.abs(random.normal(0, 0.05, (false + true, 2)))
    made["inliers"][false:, 0] = random.integers(4, 60, true)
    made["correlation"][false:, 0] = random.uniform(0.1, 1, true)
    made["overlap"] = 1
    return made


def test_more_inliers_and_a_better_alignment_score_higher():
    made = np.zeros(3, EVIDENCE)
    made["inliers"][:, 0] = [4, 8, 8]
    made["correlation"][:, 0] = [0.2, 0.2, 0.5]
    assert (np.diff(world_scores(made)[:, 0]) > 0).all()


def test_the_same_picture_in_other_colours_scores_lower_but_counts():
    made = np.zeros(2, EVIDENCE)
    made["inliers"][:, 0], made["colour"] = 40, [0, 1]
    other, same = world_scores(made)[:, 0]
    assert other == same / 2 > 1


def background_and_scores(made: np.ndarray):
    scores = world_scores(made)
    return background_of(scores[~mirrored_copies(made), 1]), scores.max(axis=1, initial=0)


def test_mirrored_copies_are_no_background_even_where_they_show_too_little_for_a_correlation():
    made = np.zeros(4, EVIDENCE)
    made["inliers"][:, 1], made["correlation"][:, 1] = [50, 50, 50, 6], [0.9, 0.1, 0, 0]
    made["overlap"][:, 1] = [0.8, 0.8, 0, 0]
    assert mirrored_copies(made).tolist() == [True, False, True, False]


def test_the_share_of_false_pairs_stays_below_the_nominal_one_in_nearly_all_samples():
    for nominal in (0.01, 0.05, 0.10):
        shares = []
        for seed in range(20):
            background, scores = background_and_scores(evidence(seed, false=4000, true=150))
            kept = scores >= threshold_of(scores, scores, background.most_false(scores), 1 - nominal, None)
            shares.append(kept[:4000].sum() / max(kept.sum(), 1))
            assert kept[4000:].mean() > 0.5
        assert np.mean(np.array(shares) <= nominal) >= 0.9


def test_the_bound_holds_the_expected_number_and_falls_as_scores_rise():
    background, _ = background_and_scores(evidence(5, false=2000, true=0))
    scores = np.linspace(0, 12, 200)
    assert (background.most_false(scores) >= background.expected_false(scores)).all()
    assert (np.diff(background.most_false(scores)) <= 1e-9).all()


def test_a_poisson_variable_with_the_bound_as_its_mean_is_rarely_as_low_as_the_count():
    counts = np.arange(50)
    assert np.allclose(poisson.cdf(counts, poisson_bound(counts)), 0.05)


def test_an_expected_number_of_false_pairs_sets_the_threshold_too():
    background, scores = background_and_scores(evidence(1, false=4000, true=150))
    expected = background.expected_false(scores)
    strict, loose = (threshold_of(scores, expected, expected, 0.9, allowed) for allowed in (0.1, 20.0))
    assert strict > loose and expected[scores >= loose].max() <= 20


def test_mirrored_copies_are_no_background():
    made = evidence(2, false=4000, true=0)
    clean = background_and_scores(made)[0].scores[0]
    made["inliers"][:50, 1], made["correlation"][:50, 1] = 80, 0.9
    assert background_and_scores(made)[0].scores[0] <= clean + 1e-9


def test_without_any_pair_nothing_is_confirmed():
    background, scores = background_and_scores(np.zeros(0, EVIDENCE))
    assert threshold_of(scores, scores, background.most_false(scores), 0.95, None) == float("inf")


def test_a_copy_between_the_background_and_the_confirmed_pairs_would_be_confirmed_too():
    background = background_of(np.linspace(0, 2, 500))
    ranked, kept = np.array([9.0, 8.0, 1.9]), np.array([True, True, False])
    copies = np.array([8.5, 6.0, 1.95, 1.0])
    assert would_be_confirmed(copies, ranked, kept, background, 0.5, None).tolist() == [True, True, False, False]
    rejected = np.array([9.0, 8.0, 7.0])
    assert would_be_confirmed(copies, rejected, kept, background, 0.5, None).tolist() == [True, False, False, False]


def test_rates_never_fall_as_scores_fall():
    scores = np.array([5.0, 4.0, 3.0, 2.0])
    rates = false_discovery_rate(scores, np.array([0.0, 0.5, 0.2, 4.0]))
    assert (np.diff(rates) >= 0).all()


def test_a_group_whose_background_scores_high_is_shown():
    scores = np.concatenate([np.random.default_rng(0).uniform(0, 1, 2000), np.full(20, 2.0)])
    inside = np.zeros(2020, bool)
    inside[-120:] = True
    ratios = false_match_ratios(scores, {"type VI": inside, "few": np.arange(2020) < 10})
    assert ratios["type VI"]["ratio"] > 5 and "few" not in ratios
