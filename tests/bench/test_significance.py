"""The statistics against published values and against simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from dllm_bench.significance import Floats, bootstrap, mcnemar, prompts_needed, wilson


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
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 101))
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 9, 2 * 11 / 1024), (15, 5, 2 * 21700 / 2**20)],
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p)
    assert mcnemar(only_second, only_first) == pytest.approx(p)


def test_prompts_needed_by_hand() -> None:
    z_level, z_power = 1.959964, 0.841621
    by_hand = ((z_level * 0.3**0.5 + z_power * 0.29**0.5) / 0.1) ** 2 + 10
    assert prompts_needed(0.1, 0.3) == int(by_hand) + 1 == 244
    assert prompts_needed(-0.1, 0.3) == 244
    assert prompts_needed(0.0, 0.3) is None
    assert prompts_needed(1.0, 1.0) == 6 and mcnemar(0, 6) < 0.05 < mcnemar(0, 5)  # all of five would not be enough


@pytest.mark.parametrize(("gain", "loss"), [(0.08, 0.05), (0.04, 0.01), (0.3, 0.1)])
def test_the_recommended_size_finds_the_difference(gain: float, loss: float) -> None:
    """A planted difference, of 3 points in the first two cases, is found in 80 % of runs of the recommended size."""
    n = prompts_needed(gain - loss, gain + loss)
    assert n is not None
    better, worse, _ = np.random.default_rng(0).multinomial(n, [gain, loss, 1 - gain - loss], 1000).T.tolist()
    found = sum(mcnemar(b, a) < 0.05 for a, b in zip(better, worse, strict=True))
    assert 0.77 < found / 1000 < 0.83  # 1.3 % is one standard error


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_wilson_covers_about_95_percent_at_any_share(share: float) -> None:
    """Exactly, over all outcomes of 200 prompts. It oscillates with the share, since outcomes are whole numbers."""
    chances = [comb(200, k) * share**k * (1 - share) ** (200 - k) for k in range(201)]
    ends = [wilson(k, 200) for k in range(201)]
    covered = sum(chance for chance, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)
    assert 0.94 < covered < 0.96


def test_wilson_covers_95_percent_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.95, 2000)
    ends = [wilson(int(rng.binomial(200, share)), 200) for share in shares]
    hits = sum(low <= share <= high for share, (low, high) in zip(shares, ends, strict=True))
    assert 0.94 <= hits / 2000 <= 0.96


def runs(n: int, rng: np.random.Generator) -> Floats:
    """n prompts under two schedulers: right, right, passes, passes, tokens; hard prompts are hard for both."""
    case = rng.choice(3, size=n, p=[0.08, 0.05, 0.87])
    both = rng.random(n) < 0.6
    first, other = np.where(case < 2, case == 1, both), np.where(case < 2, case == 0, both)
    hard = rng.gamma(4, 1, n)
    passes = np.ceil(5 + 4 * hard + rng.exponential(3, n)), np.ceil(2 + 2 * hard + rng.exponential(2, n))
    return np.stack([first, other, *passes, np.minimum(64, np.ceil(10 + 8 * hard))], axis=1).astype(float)


def accuracy(mean: Floats) -> Floats:
    return mean[..., 1] - mean[..., 0]


def nfe(mean: Floats) -> Floats:
    return mean[..., 3] - mean[..., 2]


def tpf(mean: Floats) -> Floats:
    return mean[..., 4] / mean[..., 3] - mean[..., 4] / mean[..., 2]


def test_the_bootstrap_by_hand() -> None:
    """Of means it is the textbook interval; of equal lines a point; of pairs much narrower than of their parts."""
    values = np.random.default_rng(1).normal(size=(200, 1))
    half = 1.972 * values.std(ddof=1) / 200**0.5  # Student's t with 199 degrees of freedom
    low, high = bootstrap(values, lambda mean: mean[:, 0], resamples=20_000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)
    assert bootstrap(values, lambda mean: mean[:, 0]) == bootstrap(values, lambda mean: mean[:, 0])
    assert bootstrap(np.ones((50, 2)), lambda mean: mean[:, 1] - mean[:, 0]) == (0.0, 0.0)
    paired = np.concatenate([values, values + 0.1], axis=1)
    assert bootstrap(paired, lambda mean: mean[:, 1] - mean[:, 0]) == pytest.approx((0.1, 0.1))


@pytest.mark.slow
def test_the_bootstrap_covers_95_percent() -> None:
    """2,000 runs of 300 prompts with a planted difference of 3 points, of passes, and of tokens per pass."""
    rng, statistics = np.random.default_rng(0), (accuracy, nfe, tpf)
    mean = runs(2_000_000, rng).mean(0)
    truth = [0.03, *(float(statistic(mean)) for statistic in (nfe, tpf))]
    hits = np.zeros(3)
    for _ in range(2000):
        values = runs(300, rng)
        for i, statistic in enumerate(statistics):
            low, high = bootstrap(values, statistic, resamples=500)
            hits[i] += low <= truth[i] <= high
    assert (abs(hits / 2000 - 0.95) <= 0.01).all(), hits / 2000
