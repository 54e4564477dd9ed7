"""One thread and one deterministic hypothesis profile, so that a failure here is one anywhere; and who may skip."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import hypothesis
import pytest
import torch

from tests.browser import browser as browser

torch.set_num_threads(1)
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=False)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C as a terminal sends it: a process started in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="every extra is installed: a skip is a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, object, object]:
    report = yield
    optional = item.get_closest_marker("extra") and not item.config.getoption("--fail-on-skip")
    if getattr(report, "skipped", False) and not (optional or item.get_closest_marker("gpu")):
        report.outcome = "failed"  # type: ignore[attr-defined]
    return report
