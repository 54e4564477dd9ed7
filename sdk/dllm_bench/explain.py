"""From an exception to what a user reads: one sentence and an exit code; for their own code, its frames first.

Knows which packages are ours and the machinery's, so that a traceback shows the user's files and nothing else.
"""

from __future__ import annotations

import sys
import traceback
from traceback import FrameSummary

from dllm_sdk.errors import ConfigError, DllmError, RegistryError

WRONG_USAGE, FAILED_RUN = 2, 1

_OURS = {"dllm_sdk", "dllm_bench", "dllm_strategies", "dllm_reference_model"}
_MACHINERY = _OURS | {"click", "torch", "numpy", "einops", "hypothesis", "safetensors", "tokenizers", "runpy"}


def exit_code(error: BaseException) -> int:
    """2 for wrong usage or bad input, 1 for a run that failed."""
    return WRONG_USAGE if isinstance(error, ConfigError | RegistryError) else FAILED_RUN


def explain(error: BaseException) -> str:
    """What to print: the frames of user code, if it raised, then one sentence."""
    text, cause = " ".join(str(error).split()), error.__cause__
    if isinstance(error, DllmError):
        # The sentence of a plug-in that cannot be imported says where; its frames would only repeat it.
        frames = user_frames(cause) if cause is not None and isinstance(error, RegistryError) else []
        at = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        return f"Error: {text}{at}"
    # dllm_sdk.testing.CheckFailed, known by its shape: importing it is slow
    property = getattr(error, "property", None)
    if property is not None:
        what, example = (" ".join(str(getattr(error, name, "")).split()) for name in ("what", "example"))
        frames = user_frames(cause) if cause is not None else []
        sentence = f'Error: the property "{property}" does not hold: {what}; smallest example: {example}'
        return _shown(frames) + sentence
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:  # torch's, on GPU and CPU
        return f"Error: the device ran out of memory, try a smaller --batch-size: {text}"
    frames = user_frames(error)
    if frames:
        last = frames[-1]
        return f"{_shown(frames)}Error: {_kind(error)} in {last.name} ({last.filename}, line {last.lineno})"
    if isinstance(error, OSError) and error.strerror:
        return f"Error: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    return f"Error: unexpected {_kind(error)}; run again with --traceback to see where"


def user_frames(error: BaseException) -> list[FrameSummary]:
    """The frames of an exception's traceback that belong neither to us, nor to torch and the like, nor to Python."""
    frames = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        code = frame.f_code
        written = code.co_filename != "<string>"  # where the __init__ of a dataclass comes from
        if written and package not in _MACHINERY and package not in sys.stdlib_module_names:
            frames.append(FrameSummary(code.co_filename, line, code.co_name))
    return frames


def _shown(frames: list[FrameSummary]) -> str:
    if not frames:
        return ""
    return "".join(["Traceback (your code only; --traceback shows all):\n", *traceback.format_list(frames)])


def _kind(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
