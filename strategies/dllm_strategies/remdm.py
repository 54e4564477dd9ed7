"""Ancestral sampling that masks some of what it wrote again. ReMDM, arXiv:2503.00307 (NeurIPS 2025): cap and loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dllm_sdk import ConfigError, Decision, Scheduler, View, check_number
from dllm_sdk.rules import uniform
from dllm_sdk.scheduler import MOST_PATIENCE


@dataclass(frozen=True)
class ReMDM(Scheduler):
    """From time t = 1 - step / steps to s = t - 1 / steps a mask commits with probability
    (a_s - (1 - sigma) a_t) / (1 - a_t), and a committed token is masked again with sigma = min(eta, (1 - a_s) / a_t).

    a is the share that is decided. "cap": a_t = 1 - t, and sigma throughout (published eta 0.008). "loop": a rises to
    `level` at t = `on`, stays there while sigma is applied, and rises to 1 from t = `off` on (published eta 0.02).
    No state. The paper draws tokens from the nucleus, which is the sampler's part.
    """

    schedule: Literal["cap", "loop"] = "cap"
    steps: int = 32
    eta: float = 0.008
    on: float = 0.55
    off: float = 0.05
    level: float = 0.9

    def __post_init__(self) -> None:
        check_number(self, "steps", 1, whole=True)
        for name in ("eta", "on", "off", "level"):
            check_number(self, name, 0, 1)
        if self.schedule not in ("cap", "loop"):
            raise ConfigError(f"ReMDM: schedule must be cap or loop, got {self.schedule!r}")
        if not 0 < self.off <= self.on < 1:
            raise ConfigError(f"ReMDM: off and on must be 0 < off <= on < 1, got {self.off} and {self.on}")

    @property
    def revises(self) -> bool:
        """It masks committed tokens."""
        return True

    @property
    def patience(self) -> int:
        """A loop may bring its last new low early; in the blocks of another scheduler the next one starts after it."""
        return min(max(32, 2 * self.steps), MOST_PATIENCE)

    @property
    def fits(self) -> Literal["lasting"]:
        """It counts the block's steps."""
        return "lasting"

    def plan(self, view: View, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """The whole canvas."""
        return view.open, state

    def select(self, view: View, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        """Draw what commits and what is masked again; keep the block open until time is up."""
        t = (1 - view.step.double() / self.steps).clamp(min=1 / self.steps)
        now, then = self.decided(t), self.decided(t - 1 / self.steps)
        sigma = ((1 - then) / now.clamp(min=1e-9)).clamp(max=self.eta)
        if self.schedule == "loop":
            sigma = sigma * ((t > self.off) & (t <= self.on))
        commits = (then - (1 - sigma) * now) / (1 - now)
        commit = view.open & ((uniform(view) < commits[:, None]) | (view.step + 1 >= self.steps)[:, None])
        remask = view.committed & (uniform(view, 1) < sigma[:, None])
        return Decision(commit=commit, remask=remask, hold=view.step + 1 < self.steps), state

    def decided(self, t: Tensor) -> Tensor:
        """The share decided at time t, float64 [B]."""
        if self.schedule == "cap":
            return 1 - t
        rise = (self.level * (1 - t) / (1 - self.on)).clamp(max=self.level)
        return torch.where(t > self.off, rise, 1 - (1 - self.level) * t / self.off)
