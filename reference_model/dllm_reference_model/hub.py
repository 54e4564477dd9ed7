"""Checkpoints by their name on the Hugging Face hub: which files are fetched, and which commit they are.

It knows no layout and reads no file: it turns ORG/NAME@REVISION into a folder. Needs the extra `hub`.
"""

import re
from pathlib import Path

from dllm_reference_model.checkpoint import CheckpointError

PREFIX = "hf:"
FILES = ("*.safetensors", "*.json")  # never pickles, never code
_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(name: str) -> tuple[Path, str | None]:
    """The folder with the files of ORG/NAME@REVISION, and their commit hash.

    A revision is a commit, a tag or a branch; without one it is the default branch. The hash is None where the hub
    library does not tell it. CheckpointError if the library is missing or the download fails.
    """
    parts = _ID.fullmatch(name)
    if parts is None:
        raise CheckpointError(f"a hub id is {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION, got {PREFIX + name!r}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{PREFIX}{name} needs the package huggingface_hub: pip install 'dllm-sdk[hub]'"
        ) from None
    try:
        folder = Path(snapshot_download(parts["name"], revision=parts["revision"], allow_patterns=list(FILES)))
    except Exception as error:  # the library's errors share no base, and its network layer changes between versions
        reason = " ".join(str(error).split()) or "no reason given"
        raise CheckpointError(f"{PREFIX}{name} cannot be fetched ({type(error).__name__}: {reason[:300]})") from None
    return folder, folder.name if _COMMIT.fullmatch(folder.name) else None
