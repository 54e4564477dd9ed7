"""Calibration, the mathematics: the front, the test behind a guarantee, isotonic regression, the grid, the file."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_bench import Target
from dllm_bench.calibration.choice import guaranteed, p_value
from dllm_bench.calibration.delimiters import delimiters, proposed
from dllm_bench.calibration.grid import default_axes, settings, token_field
from dllm_bench.calibration.reliability import apply, bins, isotonic, reliability
from dllm_bench.calibration.scheduler_file import scheduler_file
from dllm_bench.metrics import front
from dllm_bench.toml import as_toml
from dllm_sdk import ConfigError, load_scheduler
from dllm_strategies import EarlyEOS, FixedBlock, Threshold
from tests.bench.toys import Letters

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)
SPLITS = 200


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    losses, costs = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    kept = front(losses, costs)
    for i, (loss, cost) in enumerate(points):
        dominated = any(a <= loss and b <= cost and (a, b) != (loss, cost) for a, b in points)
        assert (i in kept) == (not dominated)
    assert [costs[i] for i in kept] == sorted((costs[i] for i in kept), reverse=True)


def test_each_target_has_its_choice() -> None:
    loss = np.array([[0.0, 0.0], [0.0, 0.1], [0.0, 0.4]])
    cost = np.array([[9.0, 9.0], [5.0, 5.0], [1.0, 2.0]])
    assert Target(max_accuracy_loss=0).choose(loss, cost) == 0
    assert Target(max_accuracy_loss=5).choose(loss, cost) == 1
    assert Target(max_accuracy_loss=20).choose(loss, cost) == 2
    assert Target(max_nfe=5).choose(loss, cost) == 1
    assert Target(max_nfe=1.5).choose(loss, cost) == 2
    assert Target(max_nfe=1).choose(loss, cost) is None
    assert Target(max_accuracy_loss=1).choose(loss[2:], cost[2:]) is None


def three_valued(rng: np.random.Generator, mean: float, n: int) -> np.ndarray[Any, Any]:
    """Losses of -1, 0 and 1 with a mean."""
    return rng.choice([-1.0, 0.0, 1.0], p=[0.03, 0.94 - mean, 0.03 + mean], size=n)


@pytest.mark.parametrize("n", [20, 100, 400])
def test_the_p_value_is_one(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [p_value(three_valued(rng, 0.05, n), 0.05, 0.1) <= 0.1 for _ in range(1000)]
    assert np.mean(found) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 1000)


def test_the_p_value_can_show_something() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([p_value(three_valued(rng, 0.0, 400), 0.05, 0.1) <= 0.1 for _ in range(200)]) > 0.9
    assert p_value(np.zeros(100), 0.05, 0.1) < 0.05
    assert p_value(np.ones(100), 0.05, 0.1) == 1.0


def test_the_guarantee_holds_where_a_plain_choice_does_not() -> None:
    """Twenty settings, each cheaper than the last and just above the bound: on some prompts one of them looks fine."""
    rng, bound, n = np.random.default_rng(0), 0.05, 200
    means = np.concatenate([[0.0], np.full(20, 0.055)])
    cost = np.repeat(np.arange(21, 0, -1.0)[:, None], n, axis=1)
    plain = sure = 0
    for _ in range(SPLITS):
        loss = np.stack([three_valued(rng, mean, n) for mean in means])
        first, second = Target(max_accuracy_loss=5).choose(loss, cost), guaranteed(loss, cost, bound, 0.9)
        plain += first is not None and means[first] > bound
        sure += second is not None and means[second] > bound
    assert plain > SPLITS / 2
    assert sure <= 0.1 * SPLITS


def test_a_guarantee_is_not_bought_with_nothing() -> None:
    rng, n = np.random.default_rng(0), 600
    cost = np.repeat(np.array([[9.0], [5.0], [1.0]]), n, axis=1)
    chosen = [
        guaranteed(np.stack([three_valued(rng, mean, n) for mean in (-0.01, 0.0, 0.5)]), cost, 0.05, 0.9)
        for _ in range(50)
    ]
    assert chosen.count(1) >= 40


SURE = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=14)


@given(SURE)
def test_isotonic_is_the_nearest_rising_function(points: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    steps, levels = isotonic(x, y)
    values = np.unique(x)

    def mean(j: int, k: int) -> float:
        return float(y[(x >= values[j]) & (x <= values[k])].mean())

    n = len(values)
    for i, value in enumerate(values):  # the min-max formula of isotonic regression
        best = max(min(mean(j, k) for k in range(i, n)) for j in range(i + 1))
        assert apply(steps, levels, np.array([value]))[0] == pytest.approx(best)
    assert apply(steps, levels, values[:1] - 1) == levels[:1]


def test_recalibration_makes_confidence_true() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0, 1, 40_000)
    right = (rng.uniform(0, 1, 40_000) < sure**3).astype(float)
    found = reliability((sure[::2], right[::2]), (sure[1::2], right[1::2]))
    assert found.error_before > 0.2
    assert found.error_after < 0.02
    assert [one.count for one in bins(np.array([0.0, 0.1, 0.95, 1.0]), np.ones(4))] == [1, 1, *[0] * 7, 2]
    assert sum(one.count for one in found.before) == sum(one.count for one in found.after) == 20_000


@pytest.mark.parametrize(("spread", "sure"), [(0.4, True), (0.5, False)])  # the drop is 3.3, 2.7 standard errors
def test_delimiters_are_signs_behind_which_confidence_falls(spread: float, sure: bool) -> None:
    drops = np.zeros((3, 15))
    newline, letter = Letters().encode("\n")[0], Letters().encode("a")[0]
    for token, fall in ((newline, 0.4), (letter, 0.4), (letter + 1, 0.0)):
        drops[:, token] = 100, 100 * fall, 100 * (fall**2 + spread**2)
    found = delimiters(Letters(), drops)
    assert [(one.text, one.proposed) for one in found] == [("\n", sure)]  # a letter is none, however much it falls
    assert (found[0].count, found[0].drop) == (100, pytest.approx(0.4))
    assert proposed(found) == (newline,) * sure


def test_the_grid_goes_around_the_thresholds() -> None:
    assert default_axes(load_scheduler("threshold")) == {"threshold": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]}
    assert set(default_axes(load_scheduler("adablock"))) == {"threshold", "delimiter_threshold"}
    assert set(default_axes(load_scheduler("klass"))) == {"threshold"}  # its divergence is a small number, too
    assert default_axes(load_scheduler("eb-sampler")) == {"budget": [0.025, 0.05, 0.1, 0.2]}
    with pytest.raises(ConfigError, match=r"fixed|Fixed.*--grid"):
        default_axes(load_scheduler("fixed-block"))


def test_a_part_is_tried_by_its_spec() -> None:
    found = settings(EarlyEOS(), {"inner": ["threshold:block=8", "fixed-block"]})
    assert list(found.values())[1:] == [EarlyEOS(Threshold(block=8)), EarlyEOS(FixedBlock())]


def test_the_given_setting_comes_first_and_what_does_not_fit_is_left_out() -> None:
    given = load_scheduler("confidence-adaptive")
    found = settings(given, {"min_block": [2, 16], "max_block": [8, 16]})
    assert list(found) == ["min_block=4,max_block=32", *(f"min_block={a},max_block={b}" for a, b in
                           ((2, 8), (2, 16), (16, 16)))]  # fmt: skip
    assert next(iter(found.values())) == given
    with pytest.raises(ConfigError, match="min_block=0 cannot be tried"):
        settings(given, {"min_block": [0, 4]})
    with pytest.raises(ConfigError, match=r"no field 'blok'.*min_block"):
        settings(given, {"blok": [1]})
    with pytest.raises(ConfigError, match="no field of token ids"):
        token_field(given)


PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab .", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(PLAIN)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert tomllib.loads(f"value = {as_toml(value)}")["value"] == value


@pytest.mark.parametrize("spec", ["adablock:threshold=0.8", "dcd", 'early-eos:inner="threshold:threshold=0.6"'])
def test_a_scheduler_file_is_the_scheduler(tmp_path: Any, spec: str) -> None:
    path = tmp_path / "mine.toml"
    scheduler = load_scheduler(spec)
    path.write_text(scheduler_file(spec.partition(":")[0], scheduler, {"model": "tiny"}, "a comment"), encoding="utf-8")
    assert load_scheduler(f"@{path}") == scheduler
    if spec.startswith("adablock"):
        assert load_scheduler(f"@{path}:block=7").block == 7  # type: ignore[attr-defined]
