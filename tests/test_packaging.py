"""What a user installs: the wheel holds the four packages, their types, the weights, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_packages_and_their_types(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {"dllm_sdk", "dllm_bench", "dllm_strategies", "dllm_reference_model"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert {f"{package}/py.typed" for package in packages} <= set(names)


def test_the_wheel_holds_the_weights(wheel: zipfile.ZipFile) -> None:
    weights = [info for info in wheel.infolist() if info.filename.endswith(".safetensors")]
    assert weights, "no weights in the wheel: is *.safetensors ignored?"
    for info in weights:
        assert 100_000 < info.file_size < 10_000_000
        folder = info.filename.rsplit("/", 1)[0]
        for beside in ("config.json", "tokenizer.json", "README.md"):
            assert f"{folder}/{beside}" in wheel.namelist()


def test_the_wheel_declares_its_plug_ins(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    for group in ("dllm_sdk.schedulers", "dllm_sdk.models", "dllm_sdk.tasks", "console_scripts"):
        assert f"[{group}]" in text
