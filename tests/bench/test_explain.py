"""From an exception to a sentence and an exit code."""

from __future__ import annotations

import pytest

from dllm_bench.explain import exit_code, explain, user_frames
from dllm_sdk import ConfigError, ModelError, RegistryError, SchedulerStalled, load_scheduler


class OutOfMemoryError(RuntimeError):
    """Known by its name: importing torch to compare types would be slow."""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("block must be >= 1,\n got 0"), 2, "Error: block must be >= 1, got 0"),
        (RegistryError("there is no x"), 2, "Error: there is no x"),
        (SchedulerStalled("no progress"), 1, "Error: no progress"),
        (ModelError("NaN"), 1, "Error: NaN"),
        (OSError(28, "No space left on device", "out"), 1, "Error: No space left on device: out"),
        (OutOfMemoryError("2 GiB"), 1, "Error: the device ran out of memory, try a smaller --batch-size: 2 GiB"),
        (TypeError("x"), 1, "Error: unexpected TypeError: x; run again with --traceback to see where"),
        (StopIteration(), 1, "Error: unexpected StopIteration; run again with --traceback to see where"),
    ],
)  # fmt: skip
def test_one_sentence(error: Exception, code: int, text: str) -> None:
    assert (exit_code(error), explain(error)) == (code, text)


def test_frames_are_the_users_own() -> None:
    def mine() -> None:
        load_scheduler("adablock:block=0")

    with pytest.raises(ConfigError) as caught:
        mine()
    assert [frame.name for frame in user_frames(caught.value)][-1:] == ["mine"]
    assert {"registry.py", "scheduler.py", "adablock.py"}.isdisjoint(
        frame.filename.rpartition("/")[2] for frame in user_frames(caught.value)
    )
