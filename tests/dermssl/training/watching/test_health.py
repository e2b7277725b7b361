"""Each way to fail is named with the setting to change."""

import math

import pytest

from dermssl.errors import HealthStop
from dermssl.training.options import HealthOptions
from dermssl.training.watching.health import Health

CHANCE = math.log(1024)
WELL = {
    "gradient_norm": 2.0,
    "lr": 0.001,
    "momentum": 0.99,
    "loss": 5.0,
    "teacher_entropy": 3.0,
    "mean_target_entropy": 6.0,
    "feature_std": 0.6,
}


def watch(values: dict, on_collapse="stop", step: int = 400) -> Health:
    health = Health(HealthOptions(on_collapse=on_collapse, patience=3), CHANCE, steps=1000)
    health.observe(1, WELL)
    for reading in range(3):
        health.observe(step + reading, WELL | values)
    return health


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": CHANCE, "teacher_entropy": CHANCE}, "uniform output.*teacher_temperature"),
        ({"teacher_entropy": 0.0, "mean_target_entropy": 0.0}, "one code.*center_momentum"),
        ({"mean_target_entropy": 0.05}, "one code.*center_momentum"),
        ({"mean_target_entropy": 3.01}, "one code.*same output"),
        ({"feature_std": 0.001}, "feature collapse.*optim.lr"),
        ({"loss": 2 * CHANCE}, "divergence.*optim.lr"),
        ({"loss": CHANCE * 1.001, "teacher_entropy": 3.0}, "not learning.*training.epochs"),
        ({"gradient_norm": 3000.0}, "exploding gradient.*optim.clip"),
        ({"gradient_norm": 0.0}, "vanished gradient.*model.init"),
        ({"lr": 1e-9}, "learning rate of zero.*optim.lr"),
        ({"momentum": 1.0}, "teacher stands still.*dino.momentum"),
    ],
)
def test_each_failure_is_named(values, words):
    with pytest.raises(HealthStop, match=words):
        watch(values)


def test_a_healthy_run_goes_on():
    assert not any(watch({}).bad_readings.values())


def test_a_run_that_was_only_warned_stops_when_it_goes_on_with_stop():
    warned = watch({"feature_std": 0.001}, on_collapse="warn")
    resumed = Health(HealthOptions(on_collapse="stop", patience=3), CHANCE, steps=1000)
    resumed.restore(warned.state())
    with pytest.raises(HealthStop, match="feature collapse"):
        resumed.observe(403, WELL | {"feature_std": 0.001})


def test_chance_level_is_forgiven_early():
    watch({"loss": CHANCE, "teacher_entropy": CHANCE}, step=10)


def test_schedules_may_end_where_nothing_moves():
    watch({"lr": 0.0, "momentum": 1.0}, step=900)


def test_a_run_that_starts_above_chance_does_not_diverge():
    health = Health(HealthOptions(patience=1), CHANCE, steps=1000)
    health.observe(1, WELL | {"loss": 2 * CHANCE})
    health.observe(2, WELL | {"loss": 1.9 * CHANCE})


def test_a_loss_that_starts_above_chance_and_stays_there_is_not_learning():
    health = Health(HealthOptions(patience=1), CHANCE, steps=1000)
    health.observe(1, WELL | {"loss": 1.4 * CHANCE})
    health.observe(600, WELL | {"loss": 1.3 * CHANCE})
    with pytest.raises(HealthStop, match=r"not learning.*no lower than at first"):
        health.observe(610, WELL | {"loss": 1.45 * CHANCE})


def test_features_along_one_line_are_named_at_the_second_evaluation():
    health = Health(HealthOptions(), CHANCE, steps=1000)
    for rank in (1.1, 40.0, 1.1):
        health.observe_rank(100, rank)
    with pytest.raises(HealthStop, match=r"rank collapse.*one line"):
        health.observe_rank(200, 1.0)


def test_features_that_lose_most_directions_are_named():
    health = Health(HealthOptions(), CHANCE, steps=1000)
    for step, rank in enumerate((19.0, 6.7, 3.8)):
        health.observe_rank(step, rank)
    other = Health(HealthOptions(), CHANCE, steps=1000)
    other.restore(health.state())
    with pytest.raises(HealthStop, match=r"rank collapse.*quarter.*sinkhorn"):
        other.observe_rank(3, 4.5)


def test_warn_does_not_stop(caplog):
    watch({"feature_std": 0.001}, on_collapse="warn")
    assert "feature collapse" in caplog.text


def test_one_good_reading_starts_the_count_anew():
    health = Health(HealthOptions(patience=2), CHANCE, steps=1000)
    for values in ({"feature_std": 0.001}, {}, {"feature_std": 0.001}):
        health.observe(500, WELL | values)


def test_three_steps_that_are_not_finite_stop_the_run():
    health = Health(HealthOptions(), CHANCE, steps=1000)
    assert not health.step_is_finite(float("nan"), 1.0, 1)
    assert health.step_is_finite(1.0, 1.0, 2)
    assert not health.step_is_finite(1.0, float("inf"), 3)
    assert not health.step_is_finite(float("nan"), 1.0, 4)
    with pytest.raises(HealthStop, match="not finite 3 times"):
        health.step_is_finite(float("nan"), 1.0, 5)
    assert health.skipped == 4


def test_a_gradient_that_is_not_finite_is_no_first_reading():
    health = Health(HealthOptions(), CHANCE, steps=1000)
    health.observe(1, WELL | {"gradient_norm": math.inf})
    health.observe(2, WELL)
    assert health.state()["first"]["gradient_norm"] == WELL["gradient_norm"]


def test_counters_survive_a_restart():
    health = watch({"feature_std": 0.001}, on_collapse="warn")
    other = Health(HealthOptions(), CHANCE, steps=1000)
    other.restore(health.state())
    assert other.state() == health.state()
