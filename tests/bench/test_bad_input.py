"""Bad input: a sentence that names what was given and what is allowed, exit code 2, nothing on stdout, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dllm_bench import calibrate, compare
from dllm_bench.cli import cli
from dllm_sdk import ConfigError
from tests.bench.toys import HERE, counting

TOYS = str(HERE)
GOOD = ["compare", "--model", f"{TOYS}:load", "--task", f"{TOYS}:task", "--limit", "2"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def sentence(result: Result, code: int = 2) -> str:
    """The one line on stderr."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in line
    return line.removeprefix("Error: ")


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_good_input_is_good() -> None:
    assert run(*GOOD).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scheduler", "adablok"], ["'adablok'", "did you mean 'adablock'", "fixed-block"]),
        (["--scheduler", "fixed-block:blok=3"], ["'blok'", "did you mean 'block'", "steps"]),
        (["--scheduler", "fixed-block:block=0"], ["block", ">= 1", "got 0"]),
        (["--scheduler", "adablock:threshold=nan"], ["threshold", "got nan"]),
        (["--scheduler", "adablock:block=1,window=2.5"], ["window", "from 0 to 1", "2.5"]),
        (["--scheduler", "fixed-block:block=x"], ["'x'", "TOML"]),
        (["--scheduler", "confidence-adaptive:min_block=9,max_block=3"], ["min_block", "9 and 3"]),
        (["--scheduler", "nowhere.py:Mine"], ["there is no file nowhere.py"]),
        (["--scheduler", "@nowhere.toml"], ["nowhere.toml"]),
        (["--scheduler", "json:JSONDecoder"], ["json:JSONDecoder", "subclass of dllm_sdk.Scheduler"]),
        (["--scheduler", f"{TOYS}:Missing"], ["'Missing'", "Pairs"]),
        (["--scheduler", "fixed-block", "--scheduler", "fixed-block"], ["fixed-block is given twice"]),
        (["--task", "exprs"], ["'exprs'", "did you mean 'expr'"]),
        (["--task", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--task", f"{TOYS}:counting"], ["name, gen_length, prompts and check"]),
        (["--task", f"{TOYS}:empty_task"], ["empty"]),
        (["--task", f"{TOYS}:long_task"], ["task long, prompt 0", "30 tokens", "12 more", "40"]),
        (["--limit", "40"], ["fewer than 40 prompts"]),
        (["--limit", "0"], ["limit", ">= 1", "got 0"]),
        (["--limit", "1", "--task", "expr"], ["limit", ">= 2", "got 1"]),
        (["--task", f"{TOYS}:task"], ["count is given 2 times"]),
        (["--gen-length", "0"], ["gen_length", ">= 1", "got 0"]),
        (["--gen-length", "-3"], ["gen_length", ">= 1", "got -3"]),
        (["--gen-length", "many"], ["--gen-length", "'many'"]),
        (["--gen-length", "1000"], ["task count, prompt 0", "1000 more", "context holds 40"]),
        (["--batch-size", "0"], ["batch_size", ">= 1", "got 0"]),
        (["--seed", "-1"], ["seed", ">= 0", "got -1"]),
        (["--seed", str(2**70)], ["seed", str(2**70)]),
        (["--temperature", "-1"], ["temperature", ">= 0", "-1"]),
        (["--temperature", "nan"], ["temperature", "nan"]),
        (["--model", "tinny"], ["'tinny'", "did you mean 'tiny'"]),
        (["--model", f"{TOYS}:load_nothing"], ["is of type str"]),
        (["--model", f"{TOYS}:load_none"], ["its loader returned nothing"]),
        (["--model", f"{TOYS}:load_module"], ["is of type Linear", "wrap() makes a model of a callable"]),
        (["--model", f"{TOYS}:load_batch_encoder"], ["tokenizer must encode a text as a list of ids, got dict"]),
        (["--task", f"{TOYS}:CountTask"], ["make one of this class"]),
        (["--cache", "dual"], ["a wrapped callable has no keys and values to cache: take cache none"]),
        (["--model", f"{TOYS}:load_no_tokenizer"], ["no tokenizer", "count", "put a tokenizer.json into"]),
        (["--model", f"{TOYS}:load_wrong_checkpoint"], ["No such file or directory", "weights.safetensors"]),
        (["--device", "gpu9"], ["'gpu9'", "cpu"]),
        (["--device", "cuda:77"], ["'cuda:77'"]),
        (["--dtype", "float23"], ["'float23'", "float32"]),
        (["--dtype", "int64"], ["'int64'", "floating-point"]),
        (["--format", "xml"], ["'xml'", "json"]),
        (["--sheduler", "adablock"], ["--sheduler", "--scheduler"]),
        (["--scheduler", "fixed-block", "adablock"], ["(adablock): an option takes one value, repeat it for the next"]),
        (["--output", TOYS], ["toys.py", "must be a folder"]),
        (["--output", "/proc/nothing/here"], ["/proc/nothing/here", "cannot be written"]),
    ],
    ids=lambda value: " ".join(value).replace(TOYS, "toys.py") if value and str(value[0]).startswith("--") else "",
)  # fmt: skip
def test_one_sentence(arguments: list[str], says: list[str]) -> None:
    line = sentence(run(*GOOD, *arguments))
    for part in says:
        assert part in line


def test_a_task_whose_check_says_yes_or_no() -> None:
    result = run(*GOOD, "--task", f"{TOYS}:yes_task")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("check must return an object with answer and strict, got True")


def test_a_task_whose_prompts_are_a_text_or_numbers() -> None:
    for name, kind in (("text", "str"), ("number", "list")):
        line = sentence(run(*GOOD, "--task", f"{TOYS}:{name}_task"))
        assert f"prompts must return a list of texts, got {kind}" in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["is empty"]),
        ("\n  \n", ["is empty"]),
        ('{"prompt": "1"}\n{"prompt": 1', ["line 2", "is not JSON"]),
        ('{"prompt": "1"}\n\n["prompt"]', ["line 3", "must be an object"]),
        ('{"question": "1"}', ["line 1", "has no prompt", "'question'"]),
        ("{}", ["has no prompt"]),
        ('{"prompt": 5}', ["prompt must be a text", "5"]),
        ('{"prompt": "5", "answer": [1]}', ["answer must be a text or a number", "[1]"]),
        ('{"prompt": "zz"}', ["prompt 0", "'z'"]),
        ('{"prompt": "5\\ud83d"}', ["prompt 0", "'\\ud83d'", "surrogates not allowed"]),
        (b"\xff\xfe\x00", ["not UTF-8"]),
    ],
)
def test_task_files(content: str | bytes, says: list[str]) -> None:
    Path("mine.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = sentence(run("compare", "--model", f"{TOYS}:load", "--task", "mine.jsonl"))
    for part in ["mine.jsonl", *says]:
        assert part in line


def test_a_folder_is_no_task_file() -> None:
    Path("mine.jsonl").mkdir()
    assert "mine.jsonl cannot be read" in sentence(run("compare", "--model", f"{TOYS}:load", "--task", "mine.jsonl"))


def test_results_are_never_overwritten() -> None:
    assert run(*GOOD, "--output", "out").exit_code == 0
    before = Path("out/results.jsonl").read_text()
    assert "results.jsonl exists" in sentence(run(*GOOD, "--output", "out"))
    assert Path("out/results.jsonl").read_text() == before


def test_bad_input_leaves_no_output_behind() -> None:
    sentence(run(*GOOD, "--output", "out", "--scheduler", "adablock:threshold=nan"))
    sentence(run(*GOOD, "--output", "out", "--gen-length", "1000"))
    assert not Path("out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dllm_reference_model.checkpoint import save
    from dllm_reference_model.model import Config, Transformer
    from dllm_reference_model.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.build(samples=20)
    config = Config(
        tokenizer.vocab_size, tokenizer.mask_id, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8, max_length=160,
        eos_ids=(tokenizer.eos_id,),
    )  # fmt: skip
    save(Transformer(config, tokenizer), folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("nothing", []),
        ("truncated", ["model.safetensors", "torn"]),
        ("text", ["model.safetensors", "not a safetensors file"]),
        ("missing", ["model.safetensors", "does not exist"]),
        ("shape", ["shape", "expected"]),
        ("config", ["config.json", "not JSON"]),
    ],
)
def test_checkpoints(checkpoint: Path, spoil: str, says: list[str]) -> None:
    folder = Path("model")
    shutil.copytree(checkpoint, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if spoil == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif spoil == "text":
        weights.write_text("not weights at all")
    elif spoil == "missing":
        weights.unlink()
    elif spoil == "shape":
        config.write_text(json.dumps({**json.loads(config.read_text()), "mlp_width": 16}))
    elif spoil == "config":
        config.write_text("{")
    result = run("compare", "--model", "tiny:model", "--task", "expr", "--limit", "1", "--scheduler", "fixed-block")
    if spoil == "nothing":
        assert result.exit_code == 0 and "tiny:model on 1 prompt of expr" in result.stdout
        return
    line = sentence(result)
    for part in ["tiny:model", *says]:
        assert part in line


@pytest.fixture
def broken_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution whose module cannot be imported, installed as pip would."""
    info = Path("broken_strategy-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-strategy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dllm_sdk.schedulers]\nbroken = broken_strategy:Broken\n")
    Path("broken_strategy.py").write_text("import json\n\nWIDTH = undefined_name\n")
    monkeypatch.syspath_prepend(Path.cwd())


def test_a_broken_plug_in_is_a_sentence_with_a_place(broken_plugin: None) -> None:
    line = sentence(run(*GOOD, "--scheduler", "broken"))
    assert "'broken'" in line and "broken_strategy:Broken" in line and "undefined_name" in line
    assert "broken_strategy.py, line 3" in line


def test_a_broken_plug_in_does_not_break_the_list(broken_plugin: None) -> None:
    short, long = run("list"), run("list", "--long")
    assert short.exit_code == long.exit_code == 0
    assert "broken-strategy 1.0" in short.stdout and "broken: " not in short.stdout
    assert "broken: " in long.stdout and "undefined_name" in long.stdout and "arXiv:2509.26432" in long.stdout
    entries = json.loads(run("list", "--long", "--format", "json").stdout)
    errors = {entry["name"]: entry["error"] for entry in entries if entry["error"]}
    assert list(errors) == ["broken"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "adablok"], ["did you mean 'adablock'"]),
        (["check", "adablock", "--examples", "0"], ["examples", ">= 1", "got 0"]),
        (["check"], ["SPEC"]),
        (["chek"], ["'chek'"]),
        (["list", "--format", "csv"], ["'csv'"]),
        (["check", "fixed-block", "adablock"], ["unexpected extra argument (adablock) (see"]),
        (["trace", "--prompt", "a", "--number", "1"], ["--number is for a prompt of --task"]),
        (["check", "threshold", "--seed", "-1"], ["seed must be a whole number >= 0, got -1"]),
        (["compare", "--seed", str(2**63)], ["seed must be a whole number from 0 to 2**63 - 1"]),
        (["trace", "--number", "99999999"], ["number must be below 100000", "got 99999999"]),
    ],
)
def test_other_commands(arguments: list[str], says: list[str]) -> None:
    line = sentence(run(*arguments))
    for part in says:
        assert part in line


@pytest.mark.parametrize(
    "arguments",
    [
        [*GOOD, "--output", "{}"],
        ["calibrate", "--output", "{}.toml"],
        ["trace", "--output", "{}.html"],
        ["trace", "{}.safetensors"],
        ["sweep", "{}"],
        ["diff", "{}", "{}"],
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_a_path_that_cannot_even_be_looked_at(arguments: list[str]) -> None:
    path = "n" * 300  # longer than a file system takes; a folder that one may not enter is alike
    assert path in sentence(run(*(part.format(path) for part in arguments)))


def test_arguments_from_python() -> None:
    schedulers: list[Any] = ["fixed-block", [], [3], [None]]
    for wrong in schedulers:
        with pytest.raises(ConfigError, match="scheduler"):
            compare(counting(), wrong, limit=5)
    limits: list[Any] = [True, 2.0, "5"]
    for wrong in limits:
        with pytest.raises(ConfigError, match="limit must be a whole number >= 1"):
            compare(counting(), limit=wrong)
    with pytest.raises(ConfigError, match="no task"):
        compare(counting(), tasks=[])
    no_model: Any = object()
    with pytest.raises(ConfigError, match="of type object, without mask_id"):
        compare(no_model)
    swapped: Any = ["threshold"]
    with pytest.raises(ConfigError, match=r"model \['threshold'\] is of type list, .*: the model comes before"):
        compare(swapped)
    with pytest.raises(ConfigError, match="tasks must be a list, got 'sort': put it in brackets"):
        compare(counting(), tasks="sort")
    no_target: Any = 5
    with pytest.raises(ConfigError, match=r"target must be a Target, such as Target\(max_accuracy_loss=1\), got 5"):
        calibrate(counting(), "threshold", target=no_target)
    no_grid: Any = [("threshold", [0.5])]
    with pytest.raises(ConfigError, match="grid must map fields to lists of values"):
        calibrate(counting(), "threshold", grid=no_grid)
