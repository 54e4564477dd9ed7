"""What a calibration found, and its forms. Knows no model and no torch; the numbers are computed in `running`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm_bench.calibration.delimiters import Delimiter
from dllm_bench.calibration.reliability import Reliability
from dllm_bench.results import Difference, Result
from dllm_sdk.writing import write_whole


@dataclass(frozen=True)
class Score:
    """A setting on some prompts."""

    n: int  # prompts
    accuracy: float  # share of them that are right; where answers are missing, agreement with the reference
    loss: float  # the reference's accuracy minus this one
    nfe: float  # forward passes, mean over prompts


@dataclass(frozen=True)
class Setting:
    """A point of the grid."""

    name: str  # the fields that vary
    fields: Mapping[str, Any]  # all hyperparameters
    role: str  # "reference", "given", "chosen", "given, chosen" or nothing
    front: bool  # no other setting is as good in both accuracy and passes and better in one, on the calibration prompts
    calibration: Score
    validation: Score | None  # of the reference, the given and the chosen one, and the front; None for the others


@dataclass(frozen=True)
class Calibration(Result):
    """What `calibrate` found. JSON lines and CSV have a line per setting."""

    forms = "dllm_bench.calibration.render"
    scheduler: str  # as it was given
    reference: str  # as it was given
    target: str  # what was looked for, in words
    quality: str  # "accuracy", or "agreement" with the reference where a prompt of either half has no answer
    axes: Sequence[str]  # the fields that vary
    settings: Sequence[Setting]  # the reference first, then the grid by falling passes
    chosen: str | None  # the name of the one that reaches the target; None: none does
    differences: Sequence[Difference]  # the chosen one's, to the reference and the given one, on validation prompts
    reliability: Reliability = field(repr=False)
    delimiters: Sequence[Delimiter] = field(repr=False)  # empty if they were not asked for
    file: str | None = field(repr=False)  # the scheduler file, TOML; None: nothing was chosen
    environment: Mapping[str, Any] = field(repr=False)
    notes: Sequence[str] = field(default=(), repr=False)

    def save(self, path: str | Path) -> None:
        """Write the scheduler file, all of it or nothing. Raises ValueError if nothing reached the target, OSError."""
        if self.file is None:
            raise ValueError(f"no setting reaches {self.target}: there is nothing to save")
        write_whole(path, self.file)

    def to_html(self) -> str:
        """A self-contained page: the front, and how reliable confidence is before and after recalibration."""
        from dllm_bench.pages.calibration import page_of

        return page_of(self)
