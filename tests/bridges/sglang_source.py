"""SGLang's real source without its server: the wheel, downloaded once into pytest's cache, and stand-ins for imports.

`sglang/srt/dllm` and `sglang/srt/plugins` run as they are. What they import from the rest of SGLang needs a GPU, and is
used by them for type hints, for the server's arguments and for the names of environment variables.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
STANDINS: dict[str, dict[str, Any]] = {
    "layers.logits_processor": {"LogitsProcessorOutput": object},
    "model_executor.forward_batch_info": {"ForwardBatch": object},
    "model_executor.model_runner": {"ModelRunner": object},
    "server_args": {"ServerArgs": object},
    "utils": {"is_npu": lambda: False},
    "arg_groups.overrides": {"resolving_view": lambda server_args: server_args},
    "configs.model_config": {
        "ModelConfig": SimpleNamespace(from_server_args=lambda server_args, **_: server_args.model_config)
    },
    "environ": {
        "envs": SimpleNamespace(
            SGLANG_PLUGINS=SimpleNamespace(get=lambda: "dllm-sdk"), SGLANG_PLATFORM=SimpleNamespace(get=lambda: "")
        )
    },
}


def extra(name: str) -> Requirement:
    """The one requirement of an extra, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (text,) = project["optional-dependencies"][name]
    return Requirement(text)


def in_range(name: str) -> bool:
    """Whether what is installed lies in the range of the extra of the same name."""
    return version(name) in extra(name).specifier


def wheel(folder: Path) -> Path:
    """The wheel of SGLang in the extra's range, downloaded unless it is there; skips the test where it cannot be."""
    found = sorted(folder.glob("sglang-*.whl"))
    if not found:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries=1",
            "--no-deps",
            "--dest",
            str(folder),
        ]
        got = subprocess.run([*command, str(extra("sglang"))], capture_output=True, text=True, check=False)
        found = sorted(folder.glob("sglang-*.whl"))
        if not found:
            pytest.skip(f"SGLang's wheel cannot be downloaded: {got.stderr.strip()[-200:]}")
    return found[-1]


def unpacked(folder: Path) -> Path:
    """Where the parts that run lie."""
    source = folder / "source"
    if not source.exists():
        with zipfile.ZipFile(wheel(folder)) as archive:
            parts = ("sglang/srt/dllm/", "sglang/srt/plugins/")
            archive.extractall(source, [name for name in archive.namelist() if name.startswith(parts)])
    return source


def forget() -> None:
    """As if it had never been imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        del sys.modules[name]
    sys.modules.pop("dllm_sdk.bridges.sglang", None)


def install(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import sglang.srt.dllm` find the real source, with stand-ins around it, until `forget`."""
    forget()
    for name in ("sglang", "sglang.srt"):
        package = ModuleType(name)
        package.__path__ = [str(source / name.replace(".", "/"))]
        monkeypatch.setitem(sys.modules, name, package)
    for name, attributes in STANDINS.items():
        module = ModuleType(f"sglang.srt.{name}")
        vars(module).update(attributes)
        for parent in module.__name__.split(".")[2:-1]:
            package = ModuleType(f"sglang.srt.{parent}")
            package.__path__ = []
            monkeypatch.setitem(sys.modules, package.__name__, package)
        monkeypatch.setitem(sys.modules, module.__name__, module)
