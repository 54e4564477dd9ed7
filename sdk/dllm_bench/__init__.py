"""Compare decoding strategies by numbers that carry their definitions; the `dllm-bench` command and what is behind it.

Nothing is imported before it is used (PEP 562), so that `dllm-bench --help` and `list` do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_bench.calibration.choice import Target as Target
    from dllm_bench.calibration.found import Calibration as Calibration
    from dllm_bench.calibration.running import calibrate as calibrate
    from dllm_bench.catalogue import Plugin as Plugin
    from dllm_bench.catalogue import available as available
    from dllm_bench.comparison import compare as compare
    from dllm_bench.conformance import check as check
    from dllm_bench.evaluation import Evaluation as Evaluation
    from dllm_bench.evaluation import evaluate as evaluate
    from dllm_bench.reading import read_results as read_results
    from dllm_bench.regression import Change as Change
    from dllm_bench.regression import Diff as Diff
    from dllm_bench.regression import diff as diff
    from dllm_bench.results import Aup as Aup
    from dllm_bench.results import Comparison as Comparison
    from dllm_bench.results import Difference as Difference
    from dllm_bench.results import Entrant as Entrant
    from dllm_bench.results import Outcome as Outcome
    from dllm_bench.results import Row as Row
    from dllm_bench.sweeps.report import Sweep as Sweep
    from dllm_bench.sweeps.report import read_sweep as read_sweep
    from dllm_bench.sweeps.run import sweep as sweep
    from dllm_bench.timing.results import Speed as Speed
    from dllm_bench.timing.run import speed as speed
    from dllm_bench.tracing import Traces as Traces
    from dllm_bench.tracing import trace as trace

# A module must not have the name of a function in it: importing it would hide the function.
_HOMES = {
    "calibration.choice": ["Target"],
    "calibration.found": ["Calibration"],
    "calibration.running": ["calibrate"],
    "catalogue": ["Plugin", "available"],
    "comparison": ["compare"],
    "conformance": ["check"],
    "evaluation": ["Evaluation", "evaluate"],
    "reading": ["read_results"],
    "regression": ["Change", "Diff", "diff"],
    "results": ["Aup", "Comparison", "Difference", "Entrant", "Outcome", "Row"],
    "sweeps.report": ["Sweep", "read_sweep"],
    "sweeps.run": ["sweep"],
    "timing.results": ["Speed"],
    "timing.run": ["speed"],
    "tracing": ["Traces", "trace"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dllm_bench' has no attribute {name!r}")
    return getattr(import_module(f"dllm_bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
