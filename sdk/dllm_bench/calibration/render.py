"""What a calibration says, and its forms. Knows numbers alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from dllm_bench.calibration.found import Calibration, Score, Setting
from dllm_bench.sheet import Sheet, Table, counted, percent

_SURE = (0.5, 0.7, 0.9, 0.95, 0.99)  # confidences whose worth is told


def title(found: Calibration) -> str:
    """What was calibrated on what, in a line."""
    about, score = found.environment, found.settings[0]
    cache = "" if about.get("cache", "none") == "none" else f", cache {about['cache']}"
    temperature = f", temperature {about['temperature']:g}" if about.get("temperature") else ""
    n = score.calibration.n + (score.validation.n if score.validation else 0)
    return (
        f"{found.scheduler} on {about.get('model')}: {found.target}, against {found.reference}; "
        f"{counted(len(found.settings) - 1, 'setting')}, {counted(n, 'prompt')}, "
        f"seed {about.get('seed')}{cache}{temperature}"
    )


def titles(found: Calibration) -> list[str]:
    """The heads of the columns behind the role."""
    return [*found.axes, found.quality, "lost", "NFE", "val.", "lost", "NFE"]


def cells(found: Calibration, one: Setting) -> list[str]:
    """What stands below them."""
    values = ["" if one.role == "reference" else _brief(one.fields[name]) for name in found.axes]
    return [*values, *_score(one.calibration), *_score(one.validation)]


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 16 else f"{text[:13]}..."


def role(one: Setting) -> str:
    """What a setting is here, in words."""
    return ", ".join(filter(None, [one.role, "front" * one.front]))


def _score(score: Score | None) -> list[str]:
    if score is None:
        return ["-"] * 3
    return [percent(score.accuracy), f"{100 * score.loss + 0.0:.1f}", f"{score.nfe:.2f}"]


def remarks(found: Calibration) -> list[str]:
    """What the numbers say."""
    return [*_verdict(found), *_about_given(found), *_about_drafts(found), *found.notes]


def _verdict(found: Calibration) -> list[str]:
    if found.chosen is None:
        hint = (
            " A guarantee needs prompts: raise limit, or allow a larger loss." if "probability" in found.target else ""
        )
        return [f"No setting reaches the target: {found.target}.{hint}"]
    said = [f"Chosen: {found.chosen}."]
    for one in found.differences:
        passes = f"{one.nfe:+.2f} forward passes per prompt [{one.nfe_low:+.2f}, {one.nfe_high:+.2f}]"
        said.append(f"{one.sentence() or f'{one.scheduler} against {one.baseline}:'} {passes}.")
    return said


def _about_given(found: Calibration) -> list[str]:
    (given,) = [one for one in found.settings if "given" in one.role]
    where = "lies on" if given.front else "does not lie on"
    return [f"The setting as given {where} the front: {_others(found, given)}."]


def _others(found: Calibration, given: Setting) -> str:
    if given.front:
        return "none of the others is as good in both accuracy and passes, and better in one"
    mine = given.calibration
    better = [
        one
        for one in found.settings[1:]
        if one.front and one.calibration.nfe <= mine.nfe + 1e-9 and one.calibration.loss <= mine.loss + 1e-9
    ]
    best = min(better, key=lambda one: one.calibration.nfe)
    return f"{best.name} is at least as good with {best.calibration.nfe:.2f} passes instead of {mine.nfe:.2f}"


def _about_drafts(found: Calibration) -> list[str]:
    said = [_worth(found)]
    if found.delimiters:
        tokens = ", ".join(
            f"{one.text!r} {one.drop:.2f}{'' if one.proposed else ' (no)'}" for one in found.delimiters[:8]
        )
        said.append(f"Confidence falls behind the tokens, by: {tokens}.")
    return said


def _worth(found: Calibration) -> str:
    drafts = found.reliability
    if not drafts.curve:
        return "How far confidence can be trusted is not known: no draft of the reference had to wait."
    worth = ", ".join(f"{sure:g}: {percent(_stays(found, sure))} %" for sure in _SURE)
    return (
        f"How often a draft that waits is written in the end, by its confidence: {worth}; expected calibration error "
        f"{100 * drafts.error_before:.1f} points, after isotonic recalibration {100 * drafts.error_after:.1f}."
    )


def _stays(found: Calibration, confidence: float) -> float:
    """The recalibrated confidence."""
    levels = [level for start, level in found.reliability.curve if start <= confidence]
    return levels[-1] if levels else found.reliability.curve[0][1]


def definitions(found: Calibration) -> list[str]:
    """What the columns mean."""
    what = (
        "% of prompts with every line right" if found.quality == "accuracy" else "% of tokens that are the reference's"
    )
    return [
        f"{found.quality}: {what}; lost: points less than the reference; NFE: forward passes per prompt; val.: "
        f"{found.quality} on the validation prompts, which chose nothing; front: on the calibration prompts no other "
        "setting is as good in both accuracy and passes, and better in one."
    ]


def sheet(found: Calibration) -> Sheet:
    """The settings that a table has room for: the reference, the given and the chosen one, and the front."""
    rows = [(role(one), cells(found, one)) for one in found.settings if role(one)]
    return Sheet(title(found), [Table("", titles(found), rows)], remarks(found), definitions(found))


def records(found: Calibration, *, flat: bool) -> list[dict[str, Any]]:
    """The settings; their fields are not flat."""
    return [_flat(one) if flat else asdict(one) for one in found.settings]


def _flat(one: Setting) -> dict[str, Any]:
    row: dict[str, Any] = {"name": one.name, "role": one.role, "front": one.front, "fields": dict(one.fields)}
    for half in ("calibration", "validation"):
        score = getattr(one, half)
        row |= {f"{half}_{key}": getattr(score, key, "") for key in ("n", "accuracy", "loss", "nfe")}
    return row
