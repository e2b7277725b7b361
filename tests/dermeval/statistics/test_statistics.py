"""Scores agree with scikit-learn; the vectorised patient bootstrap agrees with a loop over drawn patients."""

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from dermeval.statistics.bootstrap import (
    MEAN,
    cluster_codes,
    drawn_weights,
    paired_bootstrap,
    paired_means,
    resample,
    two_sided_p,
)
from dermeval.statistics.metrics import Scorer
from dermssl.errors import InputError


def predictions(rows=300, classes=4, patients=90, seed=0, ties=True):
    random = np.random.default_rng(seed)
    groups = np.array([f"P{number}" for number in random.integers(patients, size=rows)])
    truth = random.integers(classes, size=rows)
    logits = random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if ties:
        probabilities = np.round(probabilities, 1) + 0.01
        probabilities /= probabilities.sum(1, keepdims=True)
    return truth, probabilities, groups


def bootstrap(truth, probabilities, groups, **options):
    return paired_bootstrap(truth, [probabilities], groups, **options)[0]


def oracle(truth, probabilities):
    """Every multiclass score by scikit-learn."""
    guess = probabilities.argmax(1)
    present = np.unique(truth)
    one_hot = np.eye(probabilities.shape[1])[truth]
    per_class = sklearn_metrics.precision_recall_fscore_support(
        truth, guess, labels=range(probabilities.shape[1]), zero_division=0
    )
    aucs = {c: sklearn_metrics.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in present}
    aps = {c: sklearn_metrics.average_precision_score(one_hot[:, c], probabilities[:, c]) for c in present}
    return {
        "accuracy": sklearn_metrics.accuracy_score(truth, guess),
        "balanced_accuracy": np.mean([(guess[truth == c] == c).mean() for c in present]),
        "macro_f1": sklearn_metrics.f1_score(truth, guess, average="macro", labels=present, zero_division=0),
        "weighted_f1": sklearn_metrics.f1_score(truth, guess, average="weighted", zero_division=0),
        "precision": per_class[0],
        "recall": per_class[1],
        "f1": per_class[2],
        "brier": np.mean(((probabilities - one_hot) ** 2).sum(1)),
        "macro_auroc": np.mean(list(aucs.values())),
        "macro_average_precision": np.mean(list(aps.values())),
        "auroc_per_class": np.array([aucs[c] if c in present else np.nan for c in range(len(per_class[0]))]),
        "average_precision_per_class": np.array([aps[c] if c in present else np.nan for c in range(len(per_class[0]))]),
    }


@pytest.mark.parametrize("ties", [True, False])
def test_every_score_is_scikit_learns(ties):
    truth, probabilities, groups = predictions(ties=ties)
    point = Scorer(truth, probabilities, cluster_codes(groups)).point()
    for name, expected in oracle(truth, probabilities).items():
        assert np.allclose(point[name], expected, atol=1e-12), name
    assert point["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, probabilities.argmax(1))
    )


def test_binary_scores_are_scikit_learns_for_the_declared_positive_class():
    truth, probabilities, groups = predictions(classes=2)
    for positive in (0, 1):
        point = Scorer(truth, probabilities, cluster_codes(groups), positive).point()
        score, is_positive = probabilities[:, positive], truth == positive
        fpr, tpr, _ = sklearn_metrics.roc_curve(is_positive, score, drop_intermediate=False)
        assert point["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, score))
        assert point["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(is_positive, score))
        assert point["sensitivity_at_90_specificity"] == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())
        assert point["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(is_positive, score))
        guess = probabilities.argmax(1) == positive
        assert point["positive_f1"] == pytest.approx(sklearn_metrics.f1_score(is_positive, guess))
        assert point["positive_precision"] == pytest.approx(sklearn_metrics.precision_score(is_positive, guess))
        assert point["positive_recall"] == pytest.approx(sklearn_metrics.recall_score(is_positive, guess))


def test_calibration_error_is_the_gap_of_each_confidence_bin():
    truth, probabilities, groups = predictions(ties=False)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert Scorer(truth, probabilities, cluster_codes(groups)).point()["ece"] == pytest.approx(expected)


def test_a_class_without_rows_is_left_out_of_macro_averages():
    truth, probabilities, groups = predictions()
    kept = truth != 2
    point = Scorer(truth[kept], probabilities[kept], cluster_codes(groups[kept])).point()
    expected = oracle(truth[kept], probabilities[kept])
    for name in ("balanced_accuracy", "macro_f1", "macro_auroc", "macro_average_precision"):
        assert point[name] == pytest.approx(expected[name]), name
    assert np.allclose(point["average_precision_per_class"], expected["average_precision_per_class"], equal_nan=True)


def test_memory_grows_with_the_classes_and_not_with_their_pairs():
    truth, probabilities, groups = predictions(rows=500, classes=150, patients=400, ties=False)
    tracemalloc.start()
    Scorer(truth, probabilities, cluster_codes(groups))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 25 * probabilities.nbytes


@pytest.mark.parametrize("classes", [2, 4])
def test_a_resample_scores_as_the_drawn_patients_rows_do(classes):
    truth, probabilities, groups = predictions(classes=classes)
    codes = cluster_codes(groups)
    scorer = Scorer(truth, probabilities, codes)
    weights, _ = next(drawn_weights(scorer.support, 20, seed=3))
    sampled = scorer.score(weights)
    for draw in range(20):
        rows = np.concatenate(
            [np.flatnonzero(codes == c) for c in np.repeat(np.arange(len(weights)), weights[:, draw].astype(int))]
        )
        expected = oracle(truth[rows], probabilities[rows])
        if classes == 2:
            expected.pop("brier")
        for name, value in expected.items():
            assert np.allclose(sampled[name][draw], value, atol=1e-12), name


def test_the_interval_agrees_with_a_loop_over_drawn_patients():
    truth, probabilities, groups = predictions()
    result = bootstrap(truth, probabilities, groups, draws=4000)
    random = np.random.default_rng(9)
    names, codes = np.unique(groups, return_inverse=True)
    stratum = np.array([np.bincount(truth[codes == g], minlength=4).argmax() for g in range(len(names))])
    rows_of = [np.flatnonzero(codes == g) for g in range(len(names))]
    drawn = []
    for _ in range(2000):
        picked = np.concatenate([random.choice(np.flatnonzero(stratum == s), (stratum == s).sum()) for s in range(4)])
        rows = np.concatenate([rows_of[g] for g in picked])
        drawn.append((probabilities[rows].argmax(1) == truth[rows]).mean())
    interval = result.scores["accuracy"]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert result.drawn["accuracy"].shape == (4000,)


def test_patients_of_many_alike_images_widen_the_interval():
    random = np.random.default_rng(0)
    right = random.random(60) < 0.6
    truth = np.resize([0, 1], 60)
    probabilities = np.eye(2)[np.where(right, truth, 1 - truth)]
    once = bootstrap(truth, probabilities, np.arange(60))
    tenfold = [np.repeat(values, 10, axis=0) for values in (truth, probabilities, np.arange(60))]
    by_patient, by_image = bootstrap(*tenfold), bootstrap(*tenfold[:2], np.arange(600))

    def width(result):
        return result.scores["accuracy"].high - result.scores["accuracy"].low

    assert width(by_patient) == pytest.approx(width(once))
    assert width(by_image) < 0.5 * width(by_patient)


def test_a_draw_never_loses_a_class_and_redraws_are_counted():
    # Class 1 only ever is the rarer label of two patients, so stratifying alone cannot keep it.
    support = np.array([[3, 1], [3, 1], [3, 0], [3, 0], [3, 0]])
    blocks, redrawn = zip(*drawn_weights(support, 500, seed=0), strict=True)
    weights = np.concatenate(blocks, axis=1)
    assert weights.shape == (5, 500) and (weights.sum(0) == 5).all()
    assert ((support.T @ weights) > 0).all()
    # A draw of five out of five misses both patients with probability (3/5)^5 = 7.8%.
    assert 20 < sum(redrawn) < 75


def test_a_class_that_no_draw_can_keep_is_an_input_error():
    support = np.tile([2, 0] + [0] * 38, (60, 1))
    support[:40] = 2 * np.eye(40)[0] + np.eye(40)
    with pytest.raises(InputError, match="cannot keep every class"):
        next(drawn_weights(support, 8, seed=0))


def test_the_mean_of_a_cluster_bootstrap_weighs_rows_not_clusters():
    values, groups = np.array([1.0, 1, 1, 0]), ["a", "a", "a", "b"]
    interval = paired_means([values], groups, draws=2000)[0].scores[MEAN]
    assert interval.value == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_paired_draws_are_the_same_for_both_encoders():
    truth, first, groups = predictions(ties=False)
    _, same = paired_bootstrap(truth, [first, first], groups, draws=200)
    for difference in same.differences.values():
        assert not np.any(difference.value) and not np.any(difference.low) and not np.any(difference.high)
        assert np.all(difference.p == 1)


def test_a_paired_difference_is_narrower_than_two_separate_intervals():
    truth, first, groups = predictions(ties=False)
    second = first.copy()
    wrong = np.flatnonzero(first.argmax(1) != truth)[:25]
    second[wrong] = np.eye(4)[truth[wrong]]
    reference, result = paired_bootstrap(truth, [first, second], groups)
    gain = result.differences["accuracy"]
    assert gain.value == pytest.approx(25 / 300)
    assert 0 < gain.low < gain.value < gain.high and gain.p == pytest.approx(2 / 2001)
    alone = bootstrap(truth, first, groups).scores["accuracy"]
    assert (reference.scores["accuracy"].low, reference.scores["accuracy"].high) == (alone.low, alone.high)
    assert gain.high - gain.low < alone.high - alone.low


def test_seeds_are_averaged_draw_by_draw_as_scores_under_the_same_patients():
    truth, first, groups = predictions(ties=False)
    seeds = np.stack([predictions(seed=seed, ties=False)[1] for seed in (5, 6, 7)])
    one, several = paired_bootstrap(truth, [first, seeds], groups, draws=100)
    codes = cluster_codes(groups)
    (base, *drawn), _ = resample([Scorer(truth, p, codes) for p in (first, *seeds)], 100, 0)
    for name in ("accuracy", "macro_auroc", "recall"):
        mean = np.mean([entry[name] for entry in drawn], axis=0)
        score, difference = several.scores[name], several.differences[name]
        assert np.allclose([score.low, score.high], np.quantile(mean, [0.025, 0.975], axis=0))
        assert np.allclose([difference.low, difference.high], np.quantile(mean - base[name], [0.025, 0.975], axis=0))
        points = [bootstrap(truth, p, groups, draws=1).scores[name].value for p in seeds]
        assert np.allclose(several.deviations[name], np.std(points, axis=0, ddof=1))
        assert np.isnan(one.deviations[name]).all()


def test_p_is_two_sided_and_never_zero():
    assert two_sided_p(np.full(1999, 0.1)) == pytest.approx(2 / 2000)
    assert two_sided_p(np.full(1999, -0.1)) == pytest.approx(2 / 2000)
    assert two_sided_p(np.array([-1.0, 1.0, -1.0, 1.0])) == 1
    equal = 0.1 + 0.2 - 0.3  # 6e-17
    assert two_sided_p(np.array([equal] * 50 + [0.1] * 49)) == 1


def test_p_is_uniform_where_there_is_no_difference():
    ps = []
    for seed in range(60):
        truth, first, groups = predictions(seed=seed, ties=False)
        second = predictions(seed=seed + 1000, ties=False)[1]
        swap = np.random.default_rng(seed).random(len(truth)) < 0.5
        one, two = np.where(swap[:, None], first, second), np.where(swap[:, None], second, first)
        ps.append(float(paired_bootstrap(truth, [one, two], groups, draws=200)[1].differences["accuracy"].p))
    assert 0 <= np.mean(np.array(ps) < 0.05) < 0.15
    assert 0.35 < np.mean(ps) < 0.65


def test_the_seed_fixes_the_draws():
    truth, probabilities, groups = predictions()
    scorer = Scorer(truth, probabilities, cluster_codes(groups))
    runs = [resample([scorer], 100, seed)[0][0]["macro_f1"] for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_the_calibration_error_lies_in_its_own_interval_and_loses_a_third_of_its_bias():
    random = np.random.default_rng(0)
    inside, values, plain = [], [], []
    for seed in range(30):
        probabilities = random.dirichlet(np.ones(4), 150)
        truth = np.array([random.choice(4, p=row) for row in probabilities])
        ece = bootstrap(truth, probabilities, np.arange(150), draws=100, seed=seed).scores["ece"]
        inside.append(ece.low <= ece.value <= ece.high)
        values.append(ece.value)
        plain.append(Scorer(truth, probabilities, np.arange(150)).point()["ece"])
    assert all(inside) and np.mean(values) < 0.7 * np.mean(plain)


def test_the_interval_of_balanced_accuracy_covers_the_truth_where_classes_have_patients_enough():
    random, rights = np.random.default_rng(1), np.array([0.5, 0.7, 0.9])
    covered = []
    for seed in range(200):
        truth = np.repeat([0, 1, 2], [10, 20, 40])
        guess = np.where(random.random(70) < rights[truth], truth, (truth + 1) % 3)
        interval = bootstrap(truth, np.eye(3)[guess], np.arange(70), draws=200, seed=seed).scores["balanced_accuracy"]
        covered.append(interval.low <= rights.mean() <= interval.high)
        assert not interval.narrow
    # 200 runs of a 95% interval cover 188 to 195 times in two thirds of all cases; small samples cost a little.
    assert 0.88 <= np.mean(covered) <= 1


def test_an_interval_that_a_class_of_few_patients_leaves_too_narrow_is_marked():
    random, rights = np.random.default_rng(2), np.array([0.5, 0.7, 0.9])
    covered = []
    for seed in range(100):
        truth = np.repeat([0, 1, 2], [2, 20, 40])
        guess = np.where(random.random(62) < rights[truth], truth, (truth + 1) % 3)
        scores = bootstrap(truth, np.eye(3)[guess], np.arange(62), draws=100, seed=seed).scores
        covered.append(scores["balanced_accuracy"].low <= rights.mean() <= scores["balanced_accuracy"].high)
    assert np.mean(covered) < 0.8
    assert scores["balanced_accuracy"].narrow and scores["macro_auroc"].narrow and not scores["accuracy"].narrow
    assert scores["recall"].narrow.tolist() == [True, False, False]
    few = bootstrap(truth[::5], np.eye(3)[guess[::5]], np.arange(13), draws=10).scores
    assert few["accuracy"].narrow, "of 13 patients every interval is marked"
