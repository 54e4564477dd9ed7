"""Names, specs and plug-ins: what is found, and the one sentence for what is not."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from dllm_sdk import ConfigError, DualCache, RegistryError, load_cache, load_model, load_scheduler, load_task, registry
from dllm_sdk.testing import check_scheduler
from dllm_strategies import AdaBlock, FixedBlock

MINE = '''"""A plug-in."""

from dataclasses import dataclass

from dllm_sdk import Decision, Scheduler, Wrapper
from dllm_sdk.rules import first, top_k


@dataclass(frozen=True)
class Mine(Scheduler):
    """Two at a time."""

    count: int = 2
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count must be >= 1, got {self.count}")

    def plan(self, view, state):
        return first(view.open, 8), state

    def select(self, view, state):
        return Decision(top_k(view.open, view.confidence, self.count)), state


class Bare(Scheduler):
    plan, select = Mine.plan, Mine.select


class NotAScheduler:
    pass


@dataclass(frozen=True)
class Around(Wrapper):
    steps: int = 2
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    later = "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
    later += "if TYPE_CHECKING:\n    from torch import Tensor\n"
    typed = MINE.replace("count: int = 2", "count: int = 2\n    table: Tensor | None = None")
    (tmp_path / "typed.py").write_text(later + typed, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n", encoding="utf-8")
    (tmp_path / "s.toml").write_text('scheduler = "fixed-block"\n[fields]\nblock = 8\nsteps = 4\n', encoding="utf-8")
    (tmp_path / "away.toml").write_text('scheduler = "./nowhere.py:Mine"\n', encoding="utf-8")
    (tmp_path / "flat.toml").write_text('scheduler = "fixed-block"\nblock = 8\n', encoding="utf-8")
    (tmp_path / "empty.toml").write_text("", encoding="utf-8")
    (tmp_path / "torn.toml").write_text("scheduler = ", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_specs(folder: Path) -> None:
    assert load_scheduler("fixed-block") == FixedBlock()
    assert load_scheduler("fixed-block:block=8,steps=4") == load_scheduler("@s.toml") == FixedBlock(8, 4)
    assert load_scheduler("@s.toml:steps=2") == FixedBlock(8, 2)
    assert load_scheduler("dllm_strategies:AdaBlock:delimiter-threshold=inf").delimiter_threshold == math.inf
    assert load_scheduler('adablock:delimiters=["\\n", ",", 7],window=3') == AdaBlock(("\n", ",", 7), window=3)
    mine = load_scheduler('./mine.py:Mine:count=3,names=["a,b", "c"]')
    assert (mine.count, mine.names) == (3, ("a,b", "c"))
    for written in ("'\\'", r'"\\"'):  # one backslash: in single quotes as it is, in double quotes escaped
        assert load_scheduler(f"adablock:delimiters={written},block=16") == AdaBlock("\\", block=16)
    both = load_scheduler("adablock:threshold=1e+0+fixed-block:block=4")
    assert (both.plan_part, both.select_part) == (AdaBlock(threshold=1.0), FixedBlock(4))


BAD = [
    ("adablok", RegistryError, "no scheduler 'adablok'; did you mean 'adablock'"),
    ("fixed-block:blok=3", ConfigError, "no field 'blok' of FixedBlock; did you mean 'block'"),
    ("fixed-block:block=0", ConfigError, "block must be a whole number >= 1, got 0"),
    (f"fixed-block:steps={2**63}", ConfigError, f"steps must be a whole number from 1 to 2**63 - 1, got {2**63}"),
    ("adablock:threshold=nan", ConfigError, "threshold must be a number >= 0, got nan"),
    ("adablock:threshold=.8", ConfigError, "'.8' is not a TOML value"),
    ("adablock:threshold=high", ConfigError, "'high' is not a TOML value"),
    ("fixed-block:block=3\nsteps=2", ConfigError, "'3\\nsteps=2' is not a TOML value"),
    ("fixed-block:block=3,block=4", ConfigError, "gives the field 'block' twice"),
    ("./typed.py:Mine", ConfigError, "Mine: the type of a field names 'Tensor', which its file does not import"),
    ("fixed-block:block=3,4", ConfigError, "expected field=value, got '4'"),
    ("", ConfigError, "must be NAME"),
    ("a+b+c", ConfigError, "combines two"),
    ("threshold++fixed-block", ConfigError, "combines two"),
    ("threshold+", ConfigError, "combines two"),
    ("fixed-block:block=3,", ConfigError, "expected field=value, got ''"),
    ("./nowhere.py:Mine", RegistryError, "there is no file ./nowhere.py"),
    ("./mine.py:Mien", RegistryError, "'Mien' in ./mine.py; did you mean 'Mine'"),
    ("./mine.py:first", RegistryError, "is <function first"),
    ("./mine.py:Yours", RegistryError, "no 'Yours' in ./mine.py; available: Mine, Bare, NotAScheduler, Around"),
    ("./mine.py", RegistryError, "lacks a name, as in ./mine.py:NAME; available: Mine, Bare, NotAScheduler, Around"),
    ("threshold:threshold", RegistryError, "after a scheduler's name come fields, as in threshold:field=value"),
    ("./mine.py:NotAScheduler", RegistryError, "not a subclass of dllm_sdk.Scheduler"),
    ("./mine.py:Bare:count=3", ConfigError, "Bare has no field 'count': it is no dataclass (@dataclass(frozen=True))"),
    ("./mine.py:Around:steps=3", ConfigError, "Around needs a value for its field 'inner', as in :inner=..."),
    ("./mine.py:Around:inner=threshold", ConfigError, "'threshold' is not a TOML value (numbers as 0.5, texts and"),
    ("./mine.py:Mine:count=0", ConfigError, "Mine: count must be >= 1, got 0"),
    ("./broken.py:Mine", RegistryError, "cannot be loaded: ModuleNotFoundError: No module named 'nothing_like_this'"),
    ("no_such_module:Mine", RegistryError, "there is no module 'no_such_module'"),
    ("./mine.py:Mine:count", RegistryError, "after the name come fields, as in ./mine.py:Mine:field=value"),
    ("@nowhere.toml", ConfigError, "there is no scheduler file nowhere.toml"),
    ("@torn.toml", ConfigError, "torn.toml is not valid TOML"),
    ("@empty.toml", ConfigError, "must hold scheduler"),
    (
        "@away.toml",
        RegistryError,
        "there is no file ./nowhere.py; paths in a scheduler file start where you are",
    ),
    ("@flat.toml", ConfigError, "flat.toml holds 'block', which no scheduler file has"),
    ("./mine.txt:Mine", RegistryError, "./mine.txt is no Python file: give FILE.py:Mine"),
    ("mine.txt", RegistryError, "what is in a file is FILE.py:CLASS"),
    (5, ConfigError, "a scheduler is loaded by a text that names it, got 5"),
]


@pytest.mark.parametrize(("spec", "kind", "words"), BAD, ids=[str(spec) or "empty" for spec, *_ in BAD])
def test_a_bad_spec_is_one_clear_sentence(folder: Path, spec: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        load_scheduler(spec)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_scheduler_file_speaks_of_paths_only_where_no_file_was_found(folder: Path) -> None:
    (folder / "other.toml").write_text('scheduler = "./mine.py:NotAScheduler"\n')
    with pytest.raises(RegistryError, match=r"^@other\.toml: .* is not a subclass of dllm_sdk\.Scheduler$"):
        load_scheduler("@other.toml")


@pytest.mark.parametrize("load", [load_cache, load_model, load_task])
def test_what_is_no_text_is_one_clear_sentence(load: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError, match=r"is loaded by a text that names it, got DualCache\(suffix=True"):
        load(DualCache())


def test_models_and_tasks(folder: Path) -> None:
    with pytest.raises(RegistryError, match="no model 'tinny'; did you mean 'tiny'"):
        load_model("tinny")
    for dtype in ("float12", "int8", "float8_e4m3fn"):
        with pytest.raises(ConfigError, match="dtype must be a floating-point type of torch"):
            load_model("tiny", dtype=dtype)
    with pytest.raises(RegistryError, match="no task 'sorting'"):
        load_task("sorting")
    assert load_task("sort").name == "sort"
    (folder / "loads.py").write_text("NUMBER = 1\ndef bare(): ...\n", encoding="utf-8")
    with pytest.raises(RegistryError, match="give a function"):
        load_model("./loads.py:NUMBER")
    for name in ("./loads.py:bare", "math:hypot"):
        with pytest.raises(RegistryError, match="must take device= and dtype="):
            load_model(name)
    with pytest.raises(RegistryError, match="there is no module 'sort' for a task"):
        load_task("sort:5")


def test_files_of_one_name_and_of_a_modules_name_are_apart(folder: Path) -> None:
    """A class is looked up in its module by dataclasses and type hints, and others import theirs by name."""
    other = folder / "other"
    other.mkdir()
    (other / "mine.py").write_text(MINE.replace("Two", "Three").replace("= 2", "= 3"), encoding="utf-8")
    (folder / "colorsys.py").write_text(MINE, encoding="utf-8")
    found = [load_scheduler(f"./{name}:Mine") for name in ("mine.py", "other/mine.py", "colorsys.py", "mine.py")]
    assert [one.count for one in found] == [2, 3, 2, 2]
    names = [type(one).__module__ for one in found]
    assert names[0] == names[3] and len(set(names)) == 3 and "colorsys" not in names
    assert all(vars(sys.modules[name])["Mine"].count == one.count for name, one in zip(names, found, strict=True))
    assert check_scheduler(found[1], examples=3).obstacle is None  # the compiler looks modules up as well
    assert importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    (folder / "known_by_its_name.py").write_text(MINE, encoding="utf-8")
    assert type(load_scheduler("./known_by_its_name.py:Mine")).__module__ == "known_by_its_name"


def points(*pairs: tuple[str, str]):
    return lambda group: [EntryPoint(name, value, group) for name, value in pairs]


def test_a_broken_plug_in_is_named_and_hurts_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = points(("bad", "nothing_like_this:Bad"), ("good", "dllm_strategies:FixedBlock"))
    monkeypatch.setattr(registry, "entry_points", found)
    assert list(registry.available("scheduler")) == ["bad", "good"]
    assert load_scheduler("good") == FixedBlock()
    with pytest.raises(
        RegistryError, match=r"plug-in behind scheduler 'bad' \(nothing_like_this:Bad\) cannot be loaded"
    ):
        load_scheduler("bad")


def test_a_name_that_two_distributions_claim_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", points(("x", "a:A"), ("x", "b:B")))
    with pytest.raises(RegistryError, match="registered by a:A and b:B"):
        load_scheduler("x")


def test_a_registered_loader_is_asked_as_one_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "loaders.py").write_text(
        "def bare(*, device, dtype): return 'bare'\ndef at(path, *, device, dtype): return path\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "entry_points", points(("bare", "loaders:bare"), ("at", "loaders:at")))
    assert (
        load_model("bare") == load_model("./loaders.py:bare") == "bare" and load_model("at:here:there") == "here:there"
    )
    with pytest.raises(RegistryError, match=r"model 'at' must take device= and dtype=.*missing a required argument"):
        load_model("at")
    with pytest.raises(RegistryError, match=r"model 'bare:here' must take 'here' first, then device= and dtype="):
        load_model("bare:here")
