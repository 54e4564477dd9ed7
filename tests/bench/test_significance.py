"""The statistics against published values and against simulation."""

from __future__ import annotations

from random import Random

import pytest

from dllm_bench.significance import mcnemar, prompts_needed, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_inside_and_is_symmetric() -> None:
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    assert wilson(3, 10, confidence=0.5)[0] > low


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 9, 2 * 11 / 1024), (15, 5, 2 * 21700 / 2**20)],
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p)
    assert mcnemar(only_second, only_first) == pytest.approx(p)


def test_prompts_needed_by_hand() -> None:
    z_level, z_power = 1.959964, 0.841621
    by_hand = ((z_level * 0.3**0.5 + z_power * 0.29**0.5) / 0.1) ** 2
    assert prompts_needed(0.1, 0.3) == int(by_hand) + 1 == 234
    assert prompts_needed(-0.1, 0.3) == 234
    assert prompts_needed(0.0, 0.3) is None


def test_the_recommended_size_finds_the_difference() -> None:
    rng, gain, loss = Random(0), 0.11, 0.05
    n = prompts_needed(gain - loss, gain + loss)
    assert n is not None
    found = 0
    for _ in range(400):
        draws = [rng.random() for _ in range(n)]
        better, worse = sum(d < gain for d in draws), sum(d > 1 - loss for d in draws)
        found += mcnemar(worse, better) < 0.05
    assert 0.70 < found / 400 < 0.88  # 80 %, a little less because the exact test is conservative
