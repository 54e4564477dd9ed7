"""Decode every setting on the calibration prompts, choose, and decode what matters on the validation prompts.

Every setting is decoded once; if only a validation prompt turns out to have no answer, those of the validation prompts
anew. Knows settings as contenders, and prompts as batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dllm_bench.calibration.choice import Target
from dllm_bench.calibration.found import Score, Setting
from dllm_bench.journal import Journal
from dllm_bench.measure import Batch, Report, Run
from dllm_bench.metrics import difference, front
from dllm_bench.results import Difference, Outcome
from dllm_bench.significance import Floats
from dllm_sdk.binding import describe

REFERENCE = "reference"


class Decided(NamedTuple):
    """What came out, as a `Calibration` has it."""

    settings: list[Setting]
    chosen: str | None
    differences: list[Difference]
    quality: str


class Judged(NamedTuple):
    """Settings on the same prompts, which are in random order."""

    outcomes: dict[str, list[Outcome]]
    quality: Floats  # [S, n]  1 or 0 for right or wrong, or agreement with the reference
    cost: Floats  # [S, n]  forward passes

    def score(self, name: str) -> Score:
        """A setting's means."""
        i = list(self.outcomes).index(name)
        accuracy = float(self.quality[i].mean())
        loss = float(self.quality[0].mean()) - accuracy
        return Score(self.quality.shape[1], accuracy, loss, float(self.cost[i].mean()))


def decide(run: Run, halves: Sequence[Sequence[Batch]], target: Target, report: Report | None) -> Decided:
    """Contenders are the reference, the given setting, then the others; `halves` calibration and validation."""
    given = run.contenders[1].name
    outcomes = measure(run, halves[0], report)
    for scored in (True, False) if known(outcomes) else (False,):  # one quality for both halves
        calibration = judge(outcomes, scored)
        chosen, best = choose(calibration, target)
        kept = {REFERENCE, given, chosen} | best
        again = replace(run, contenders=[one for one in run.contenders if one.name in kept])
        more = measure(again, halves[1], report)
        if known(more):
            break
    validation = judge(more, scored)
    roles = {"reference": REFERENCE, "given": given, "chosen": chosen}
    found = [
        Setting(
            name=one.name,
            fields=describe(one.scheduler),
            role=", ".join(role for role, whose in roles.items() if whose == one.name),
            front=one.name in best,
            calibration=calibration.score(one.name),
            validation=validation.score(one.name) if one.name in kept else None,
        )
        for one in run.contenders
    ]
    against = [name for name in (REFERENCE, given) if chosen not in (None, name)]
    differences = [difference(validation.outcomes[name], validation.outcomes[str(chosen)]) for name in against]
    ordered = [found[0], *sorted(found[1:], key=lambda one: -one.calibration.nfe)]
    return Decided(ordered, chosen, differences, "accuracy" if scored else "agreement")


def choose(judged: Judged, target: Target) -> tuple[str | None, set[str]]:
    """The setting that reaches the target with the fewest passes, if any does, and those on the front."""
    names = list(judged.outcomes)[1:]
    loss, cost = judged.quality[:1] - judged.quality[1:], judged.cost[1:]
    index = target.choose(loss, cost)
    return None if index is None else names[index], {names[i] for i in front(loss.mean(1), cost.mean(1))}


def measure(run: Run, batches: Sequence[Batch], report: Report | None) -> dict[str, list[Outcome]]:
    """Every setting on every prompt."""
    mine: dict[str, list[Outcome]] = {one.name: [] for one in run.contenders}
    for outcome in replace(run, batches=batches).outcomes(Journal(None), report):
        mine[outcome.scheduler].append(outcome)
    # Batches are sorted by length; a test needs prompts in random order.
    order = np.random.default_rng(run.seed).permutation(len(mine[REFERENCE]))
    return {name: [found[i] for i in order] for name, found in mine.items()}


def known(outcomes: Mapping[str, Sequence[Outcome]]) -> bool:
    """Whether every prompt has an answer that is known."""
    return all(one.strict is not None for one in next(iter(outcomes.values())))


def judge(outcomes: dict[str, list[Outcome]], scored: bool) -> Judged:
    """By accuracy, or by agreement with the first setting."""
    quality = [[float(one.strict or 0) if scored else one.agreement for one in found] for found in outcomes.values()]
    cost = [[float(one.nfe) for one in found] for found in outcomes.values()]
    return Judged(outcomes, np.array(quality), np.array(cost))
