"""lm-evaluation-harness: the adapter's answers and their cost, and a local task with the real harness."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from dllm_bench.cli import cli
from dllm_sdk import ConfigError, generate, load_model, load_scheduler
from tests.bench.toys import HERE, counting

TOYS = str(HERE)
DATA = Path(__file__).parents[1] / "data" / "lm_eval"


class Request(NamedTuple):
    """What the adapter reads of the harness' Instance."""

    args: tuple[str, dict[str, Any]]
    doc_id: int = 0
    task_name: str = "count"
    idx: int = 0


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["lm-eval", *arguments])


@pytest.fixture
def harness() -> Any:
    """The adapter's module."""
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    import dllm_bench.lm_eval

    return dllm_bench.lm_eval


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dllm_bench.lm_eval", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = run("--tasks", "gsm8k")
    assert result.exit_code == 2
    assert "pip install 'dllm-sdk[lm-eval]'" in result.stderr


def test_no_task_is_wrong_usage() -> None:
    result = run()
    assert result.exit_code == 2
    assert "--tasks" in result.stderr


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
class TestAdapter:
    """Requests as the harness makes them, on the counting model: k is answered by k times `a`."""

    def test_answers_come_in_the_order_of_the_requests(self, harness: Any) -> None:
        lm = harness.DLLM(counting(), "threshold", gen_length=12, batch_size=2)
        requests = [Request((str(k), {"until": []}), doc_id=k) for k in (5, 1, 3)]
        assert lm.generate_until(requests) == ["aaaaa", "a", "aaa"]
        assert lm.numbers("count") == {"nfe": 1, "tpf": 4, "generated_tokens": 4}  # 6 + 2 + 4 tokens with EOS, 3 passes

    def test_a_text_ends_at_its_first_stop_string(self, harness: Any) -> None:
        lm = harness.DLLM(counting(), "threshold", gen_length=12)
        for until, text in ((["aaa"], ""), (["b", "aa"], ""), ("b", "aaaa"), (None, "aaaa")):
            assert lm.generate_until([Request(("4", {"until": until}))]) == [text]

    def test_a_task_says_how_long_and_the_user_has_the_last_word(self, harness: Any) -> None:
        short = Request(("7", {"max_gen_toks": 3}))
        assert harness.DLLM(counting(), "threshold").generate_until([short]) == ["aaa"]
        assert harness.DLLM(counting(), "threshold", gen_length=12).generate_until([short]) == ["aaaaaaa"]

    def test_long_prompts_lose_their_left_end(self, harness: Any) -> None:
        lm = harness.DLLM(counting(max_length=20), "threshold", gen_length=12)
        assert lm.generate_until([Request(("1" * 20, {}))])
        ((answer,),) = lm.answers.values()
        assert answer.truncated == 12

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"num_beams": 4}, "num_beams=4.*temperature"),
            ({"do_sample": True, "top_k": 5}, "top_k=5"),
            ({"max_gen_toks": 400}, "400 tokens.*holds 40"),
            ({"max_gen_toks": 0}, "max_gen_toks of task count must be a whole number >= 1, got 0"),
            ({"max_gen_toks": "12"}, "max_gen_toks of task count must be a whole number >= 1, got '12'"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused(self, harness: Any, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            harness.DLLM(counting(), "threshold").generate_until([Request(("4", options))])

    def test_greedy_tasks_may_name_what_greedy_ignores(self, harness: Any) -> None:
        lm = harness.DLLM(counting(), "threshold", gen_length=12)
        options = {"do_sample": False, "temperature": 0.7, "top_p": 0.95, "top_k": 5}
        assert lm.generate_until([Request(("4", options))]) == ["aaaa"]

    def test_what_a_task_sets_to_null_is_not_set(self, harness: Any) -> None:
        lm = harness.DLLM(counting(), "threshold", gen_length=12)
        for options in ({"temperature": None}, {"do_sample": True, "temperature": 1e-6, "top_p": None}):
            assert lm.generate_until([Request(("4", options))]) == ["aaaa"]

    def test_repeats_draw_other_numbers(self, harness: Any) -> None:
        model = load_model("tiny")
        request = Request(("sort:33,7,56,59\n", {"do_sample": True, "temperature": 3.0, "max_gen_toks": 16}))
        texts = harness.DLLM(model, "threshold").generate_until([request] * 3)
        assert len(set(texts)) == 3
        assert harness.DLLM(model, "threshold").generate_until([request] * 3) == texts

    def test_likelihoods_are_refused(self, harness: Any) -> None:
        for asked in ("loglikelihood", "loglikelihood_rolling"):
            with pytest.raises(ConfigError, match=r"likelihoods.*generate_until"):
                getattr(harness.DLLM(counting(), "threshold"), asked)([Request(("4", {}))])

    def test_chat_templates(self, harness: Any) -> None:
        messages = [{"role": "user", "content": "4"}]
        with pytest.raises(ConfigError, match="no chat template"):
            harness.DLLM(counting(), chat="tokenizer").apply_chat_template(messages)
        lm = harness.DLLM(counting(), chat="dllm_reference_model.prompts:llada_chat")
        assert lm.apply_chat_template(messages).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
        with pytest.raises(ConfigError, match="begins the answer"):
            lm.apply_chat_template(messages, add_generation_prompt=False)
        with pytest.raises(ConfigError, match="MODULE:FUNCTION"):
            harness.DLLM(counting(), chat="nowhere:nothing")

    def test_the_harness_makes_it_from_its_arguments(self, harness: Any) -> None:
        lm = harness.DLLM.create_from_arg_string(
            f"model={TOYS}:load,scheduler=threshold:threshold=0.8", {"batch_size": "4", "device": None}
        )
        assert (lm.batch_size, lm.scheduler.threshold) == (4, 0.8)
        assert lm.get_model_info()["scheduler_fields"] == {"block": 32, "threshold": 0.8}

    def test_the_next_release_finds_it(self, harness: Any) -> None:
        from importlib.metadata import entry_points

        (point,) = entry_points(group="lm_eval.models", name="dllm")
        assert point.load() is harness.DLLM


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_a_local_task_runs_offline_with_nfe_in_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    output = tmp_path / "out.json"
    arguments = ["--tasks", str(DATA / "sort.yaml"), "--scheduler", "threshold", "--limit", "4", "--offline"]
    result = run(*arguments, "--output", str(output), "--format", "jsonl")
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    prompts = [
        json.loads(line)["prompt"] for line in (DATA / "sort.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    ]
    here = generate(load_model("tiny"), prompts, load_scheduler("threshold"), gen_length=96)
    assert row["nfe"] == pytest.approx(sum(here.nfe) / 4)
    assert row["tpf"] == pytest.approx(sum(here.generated) / sum(here.nfe))
    assert (row["task"], row["metric"], row["n"]) == ("dllm_sort", "exact_match", 4)
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["results"]["dllm_sort"]["nfe,none"] == row["nfe"]
    assert report["config"]["scheduler"] == "threshold"
    samples = sorted(report["samples"]["dllm_sort"], key=lambda sample: sample["doc_id"])
    assert [sample["nfe"] for sample in samples] == [[n] for n in here.nfe]
    assert [sample["resps"][0][0] for sample in samples] == here.text


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_a_file_calibrated_on_other_prompts_warns(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    file = tmp_path / "fast.toml"
    file.write_text('scheduler = "threshold"\n[calibration]\nmodel = "tiny"\ntasks = {sort = "0"}\n', encoding="utf-8")
    result = run("--tasks", str(DATA / "sort.yaml"), "--scheduler", f"@{file}", "--limit", "1", "--offline")
    assert result.exit_code == 0, result.output
    assert "Warning: " in result.stderr and "the task sort, not dllm_sort: its thresholds may not fit" in result.stderr


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["no task file", "mine.yaml"]),
        ("task: [", ["mine.yaml", "cannot be loaded"]),
        ("just text", ["mine.yaml", "cannot be loaded"]),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: nowhere.jsonl}\n", ["nowhere.jsonl"]),
        (
            "task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: DATA}}\ntest_split: test\n"
            'output_type: loglikelihood\ndoc_to_text: "{{prompt}}"\ndoc_to_target: "{{answer}}"\n',
            ["x: asks for likelihoods", "generate_until"],
        ),
    ],
)
def test_a_task_that_cannot_run_is_a_sentence(
    content: str | None, says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if content is not None:
        Path("mine.yaml").write_text(content.replace("DATA", str(DATA / "sort.jsonl")), encoding="utf-8")
    result = run("--tasks", "mine.yaml", "--model", f"{TOYS}:load", "--offline")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for part in says:
        assert part in line


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scheduler", "adablok"], ["did you mean 'adablock'"]),
        (["--model", f"{TOYS}:load_no_tokenizer"], ["no tokenizer"]),
        (["--limit", "0"], ["limit", ">= 1"]),
        (["--num-fewshot", "-1"], ["num_fewshot", ">= 0"]),
        (["--gen-length", "0"], ["gen_length", ">= 1"]),
        (["--batch-size", "0"], ["batch_size", ">= 1"]),
        (["--cache", "triple"], ["'triple'", "dual"]),
        (["--chat", "nothing"], ["tokenizer or MODULE:FUNCTION"]),
        (["--tasks", f"{'n' * 300}.yaml"], ["no task file"]),
        (["--output", "/proc/nothing/x.json"], ["cannot be written"]),
    ],
    ids=lambda value: " ".join(value).replace(TOYS, "toys.py") if value and str(value[0]).startswith("--") else "",
)  # fmt: skip
def test_bad_input_is_a_sentence(arguments: list[str], says: list[str]) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`")
    result = run("--tasks", str(DATA / "sort.yaml"), "--model", f"{TOYS}:load", *arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr, result.output
    # What the harness warns of while it is imported, where this is the first test that does, comes before.
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for part in says:
        assert part in line
