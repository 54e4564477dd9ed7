"""`compare` on a model whose every number is known beforehand."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dllm_bench
from dllm_bench import Comparison, Entrant, Evaluation, Outcome, Speed, compare, diff, trace
from dllm_bench.environment import digest, fingerprint
from dllm_bench.measure import Progress, cut
from dllm_bench.metrics import agreement, difference, summarise
from dllm_bench.questions import Verdict
from dllm_bench.sheet import Sheet, Table, as_table
from dllm_bench.timing.ceilings import Ceilings
from dllm_reference_model.model import Config, Transformer
from dllm_reference_model.public import PublicTransformer
from dllm_sdk import ConfigError, combine, load_scheduler
from dllm_sdk.binding import describe
from dllm_sdk.compiling import Compiler
from tests.bench.toys import CountTask, Letters, Pairs, counting, task

ROW = {"scheduler", "n", "accuracy", "accuracy_low", "accuracy_high", "answer_accuracy", "nfe", "tpf", "fields"}
ROW |= {"generated_tokens", "tokens_per_second", "latency_p50_s", "latency_p95_s"}
THREE = ["fixed-block", "confidence-adaptive", Pairs()]


@pytest.fixture(scope="module")
def found() -> Comparison:
    """Digits 1 to 9, answered by k letters and EOS; 6 to 9 by the wrong letter."""
    return compare(counting(6), THREE, [task], limit=9, batch_size=4)


def test_rows_hold_the_numbers_worked_out_by_hand(found: Comparison) -> None:
    fixed, adaptive, pairs = found.rows
    tokens = [k + 1 for k in range(1, 10)]  # k letters and EOS
    for row in found.rows:
        assert (row.n, row.n_scored) == (9, 9)
        assert row.accuracy == pytest.approx(5 / 9) and row.answer_accuracy == 1.0
        assert row.generated_tokens == pytest.approx(sum(tokens) / 9) and row.agreement == 1.0
        assert row.accuracy_low == pytest.approx(0.2667, abs=1e-4)
        assert row.accuracy_high == pytest.approx(0.8112, abs=1e-4)
        assert 0 < row.latency_p50_s <= row.latency_p95_s
    assert fixed.nfe == pytest.approx(sum(tokens) / 9) and fixed.tpf == 1.0  # one token per pass, until EOS is settled
    assert adaptive.nfe == 1.0 and adaptive.tpf == pytest.approx(sum(tokens) / 9)  # all of 12 positions at once
    passes = [-(-count // 2) for count in tokens]
    assert pairs.nfe == pytest.approx(sum(passes) / 9) and pairs.tpf == pytest.approx(sum(tokens) / sum(passes))
    assert fixed.scheduler == "fixed-block" and pairs.scheduler == "Pairs(block=32)"
    assert {"block": 32, "steps": 32}.items() <= fixed.fields.items()


def test_numbers_do_not_depend_on_the_batch_size(found: Comparison) -> None:
    other = compare(counting(6), THREE, [task], limit=9, batch_size=1)
    for one, two in zip(found.rows, other.rows, strict=True):
        assert (one.nfe, one.tpf, one.accuracy, one.generated_tokens) == (
            two.nfe,
            two.tpf,
            two.accuracy,
            two.generated_tokens,
        )


def test_schedulers_alternate_on_equal_batches(found: Comparison) -> None:
    seen = list(dict.fromkeys((outcome.batch, outcome.scheduler) for outcome in found.outcomes))
    names = [row.scheduler for row in found.rows]
    assert seen == [(batch, name) for batch in range(3) for name in names]
    of = {name: [(o.batch, o.prompt) for o in found.outcomes if o.scheduler == name] for name in names}
    assert of[names[0]] == of[names[1]] == of[names[2]]
    assert sorted(prompt for _, prompt in of[names[0]]) == list(range(9))


def outcome(prompt: int = 0, scheduler: str = "a", strict: bool | None = True, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "task": "t", "text": "", "answer": strict, "agreement": 1.0, "nfe": 1, "refreshes": 0, "fed": 5, "generated": 2,
        "seconds": 1.0, "batch": 0, "cache": "none", "extra": 0, "blocks": [2], "batch_lanes": 10,
        "batch_peak_bytes": None,
    }  # fmt: skip
    return Outcome(prompt=prompt, scheduler=scheduler, strict=strict, **{**values, **changes})


def test_speed_counts_each_batch_until_its_last_row() -> None:
    outcomes = [
        outcome(0, generated=10, nfe=4, seconds=1.0),
        outcome(1, generated=20, nfe=8, seconds=3.0),
        outcome(2, generated=6, nfe=6, seconds=2.0, batch=1, strict=None, answer=None),
    ]
    row = summarise(Entrant("a", "A", {}, "none", "a"), outcomes)
    assert row.tokens_per_second == pytest.approx(36 / 5)  # 3 s for the first batch, 2 s for the second
    assert row.tpf == pytest.approx(2.0) and row.nfe == 6.0 and row.generated_tokens == 12.0
    assert row.latency_p50_s == 2.0 and row.latency_p95_s == pytest.approx(2.9)
    assert (row.n, row.n_scored, row.accuracy) == (3, 2, 1.0)


def test_differences_are_paired_by_prompt() -> None:
    first = [outcome(i, "a", strict) for i, strict in enumerate([True, True, True, False, False, None])]
    other = [outcome(i, "b", strict) for i, strict in reversed(list(enumerate([False, True, True, True, True, True])))]
    one = difference(first, other)
    assert (one.n, one.n_scored, one.only_scheduler, one.only_baseline) == (6, 5, 2, 1)
    assert one.accuracy == pytest.approx(0.2) and one.p_value == 1.0 and one.prompts_needed == 121
    assert one.sentence() == (
        "b against a: +20.0 points [-80.0, +100.0], within chance on 5 prompts (McNemar p = 1.00); "
        "a difference of this size would need about 121 prompts."
    )


def test_differences_in_cost_need_no_answers() -> None:
    first = [outcome(i, "a", None, nfe=4 + i % 3, generated=8) for i in range(60)]
    other = [outcome(i, "b", None, nfe=2 + i % 3, generated=8) for i in range(60)]
    one = difference(first, other)
    assert (one.n, one.n_scored, one.accuracy, one.p_value, one.sentence()) == (60, 0, None, None, "")
    each = -2.0  # every prompt takes two passes less
    assert (one.nfe, one.nfe_low, one.nfe_high) == pytest.approx((each, each, each))
    assert one.tpf == pytest.approx(8 / 3 - 8 / 5) and 0 < one.tpf_low < one.tpf < one.tpf_high


@pytest.mark.parametrize(
    ("wins", "losses", "says"),
    [
        (0, 0, "on 40 prompts neither is right where the other is wrong"),
        (3, 3, "equally accurate"),
        (1, 15, "more than chance explains"),
    ],
)
def test_a_difference_in_words(wins: int, losses: int, says: str) -> None:
    first = [outcome(i, "a", i >= wins) for i in range(40)]
    other = [outcome(i, "b", i < wins or i >= wins + losses) for i in range(40)]
    assert says in difference(first, other).sentence()


def test_agreement_goes_to_the_end_of_the_longer_answer() -> None:
    assert agreement([1, 2, 3], [1, 2, 3]) == 1.0
    assert agreement([1, 9], [1, 2, 3, 4]) == 0.25
    assert agreement([], []) == 1.0


def test_batches_are_even_and_keep_short_prompts_together() -> None:
    ids = [[0] * length for length in (5, 1, 3, 2, 9, 1, 7)]
    assert cut(ids, 3) == [[1, 5], [3, 2], [0, 6, 4]]
    assert [len(part) for part in cut(ids, 100)] == [7]


def test_json_has_rows_tasks_and_environment() -> None:
    two = compare(counting(), THREE, [task, CountTask("other", 8)], limit=6)
    data = json.loads(two.to_json())
    assert [row["scheduler"] for row in data["rows"]] == ["fixed-block", "confidence-adaptive", "Pairs(block=32)"]
    assert list(data["tasks"]) == ["count", "other"]
    for row in [*data["rows"], *data["tasks"]["other"]]:
        assert set(row) >= ROW
    assert [row["n"] for row in data["rows"]] == [6, 6, 6] and data["tasks"]["count"][0]["n"] == 3
    environment = data["environment"]
    assert environment["torch"] == torch.__version__ and environment["batch_size"] == 32 and environment["seed"] == 0
    assert environment["gen_length"] == {"count": 12, "other": 8} and environment["model_sha256"] is None
    assert environment["dtype"] is None and "float32" not in str(two)  # of a function nobody knows it


def test_every_format_is_what_it_says(found: Comparison) -> None:
    lines = found.to_markdown().splitlines()
    assert lines[2].startswith("| scheduler | n | accuracy [95 %] | answer | NFE |") and lines[4].startswith(
        "| `fixed-block` | 9 |"
    )
    assert found._repr_markdown_() == found.to_markdown()
    (first, *_) = csv.DictReader(io.StringIO(found.to_csv()))
    assert set(first) >= ROW and json.loads(first["fields"])["block"] == 32
    assert [json.loads(line)["n"] for line in found.to("jsonl").splitlines()] == [9, 9, 9]
    assert str(found) == found.to("table")


@pytest.mark.parametrize("format", ["html", "wrap"])  # the second is a function of the module that writes tables
def test_any_other_format_is_refused(found: Comparison, format: Any) -> None:
    empty = Speed(Ceilings(1, 1, 1, 1), (), (), (), {}, ())
    for one in (found, diff(found, found), Evaluation("tiny", "adablock", [], {}), empty):
        with pytest.raises(ConfigError, match=f"format must be one of table, json, jsonl, csv, md, got '{format}'"):
            one.to(format)


def test_a_long_name_goes_over_lines_that_begin_alike() -> None:
    name = "confidence-adaptive:threshold=0.9,commit_threshold=0.95, none"
    sheet = Sheet("", [Table("scheduler", ["NFE"], [(name, ["9" * 70])])], [], [])
    lines = as_table(sheet).split("---\n")[1].splitlines()
    assert len(lines) > 2 and all(re.match(r"  \S", line) for line in lines[1:])


def test_the_table_is_aligned_and_narrow(found: Comparison) -> None:
    long = "confidence-adaptive:threshold=0.55,min_block=8,max_block=64,commit_threshold=0.95"
    tasks = [CountTask(f"task-number-{i}-with-a-long-name", 8) for i in range(7)]
    text = str(compare(counting(), [long, "fixed-block"], tasks, limit=14))
    assert max(map(len, text.splitlines())) <= 100
    for piece in (
        "confidence-adaptive:",
        "  threshold=0.55,min_block=8,",
        "  max_block=64,",
        "  commit_threshold=0.95",
    ):
        assert any(line.startswith(piece) for line in text.splitlines())  # broken where it can be read
    top = str(found).splitlines()
    head = next(i for i, line in enumerate(top) if line.startswith("scheduler"))
    assert {len(line) for line in top[head : head + 5]} == {len(top[head])}


class Unsure(CountTask):
    def check(self, prompt: str, text: str) -> Any:
        return super().check(prompt, text) if prompt == "1" else Verdict(None, None)


def test_a_task_need_not_know_every_answer() -> None:
    (row,) = compare(counting(), ["threshold"], [Unsure()], limit=3).rows
    assert (row.n, row.n_scored, row.accuracy, row.answer_accuracy) == (3, 1, 1.0, 1.0)


def test_files_with_and_without_answers(tmp_path: Path) -> None:
    known, unknown = tmp_path / "known.jsonl", tmp_path / "unknown.jsonl"
    known.write_text('{"prompt": "3", "answer": " aaa\\n"}\n\n{"prompt": "2", "answer": "bb"}\n{"prompt": "4"}\n')
    unknown.write_text('\ufeff{"prompt": "3", "id": 7}\n{"prompt": "2"}\n', encoding="utf-8")
    both = compare(counting(), ["fixed-block", "confidence-adaptive"], [str(known), str(unknown)], gen_length=8)
    scored, free = both.tasks[str(known)][1], both.tasks[str(unknown)][1]
    assert (scored.n, scored.n_scored, scored.accuracy, scored.answer_accuracy) == (3, 2, 0.5, 0.5)
    assert (free.n, free.n_scored, free.accuracy, free.accuracy_low, free.answer_accuracy) == (2, 0, None, None, None)
    assert free.agreement == 1.0 and free.nfe == 1.0
    assert "agree" in str(both) and "accuracy" in str(both)
    under_accuracy = str(both).split("accuracy, NFE")[1].split("\n\n")[0]
    assert "50.0" in under_accuracy and "100.0" not in under_accuracy  # agreement is no accuracy
    assert "<b>-</b>" in both.to_html() and "<b>100.0</b>" not in both.to_html()
    alone = compare(counting(), ["fixed-block", "confidence-adaptive"], [unknown], limit=1, gen_length=8)
    assert "accuracy" not in str(alone) and alone.differences[0].accuracy is None
    assert alone.notes == [f"{unknown}: the first 1 of 2 prompts (--limit)."]
    assert "the first 1 of 2" in " ".join(str(alone).split())  # whatever the length of the path
    json.loads(alone.to_json())
    known.write_text('{"prompt": "3", "answer": "\u2028"}\r\n{"prompt": "2", "answer": "bb"}', encoding="utf-8")
    assert compare(counting(), ["fixed-block"], [known], gen_length=8).rows[0].n_scored == 2


def test_of_a_task_with_more_prompts_the_first_are_taken() -> None:
    class Fixed(CountTask):
        def prompts(self, split: str, n: int, seed: int) -> list[str]:
            return super().prompts(split, 9, seed)

    found = compare(counting(), ["threshold"], [Fixed()], limit=3)
    assert found.rows[0].n == 3 and found.notes == ["count: the first 3 of 9 prompts (--limit)."]
    assert trace(counting(), ["threshold"], task=Fixed(), number=1).shown[0].trace.about["number"] == 1


def test_results_are_written_line_by_line(tmp_path: Path, found: Comparison) -> None:
    again = compare(counting(6), THREE, [task], limit=9, batch_size=4, output=tmp_path / "new" / "folder")
    run, *results, end = map(json.loads, (tmp_path / "new" / "folder" / "results.jsonl").read_text().splitlines())
    assert run["kind"] == "run" and run["schema"] == "dllm-bench/2" and run["environment"]["model"] == "CallableModel"
    assert [one["scheduler"] for one in run["schedulers"]] == [row.scheduler for row in found.rows]
    assert end["kind"] == "end" and end["peak_rss_bytes"] > 1 << 20
    assert len(results) == 27 and {line["kind"] for line in results} == {"result"}
    for line, mine in zip(results, again.outcomes, strict=True):
        assert (line["prompt"], line["scheduler"], line["nfe"]) == (mine.prompt, mine.scheduler, mine.nfe)
    assert results[0]["text"] == "a" * (results[0]["prompt"] + 1) and results[0]["prompt_text"] == "1"
    assert results[0]["refreshes"] == 0 and results[0]["fed"] > 0 and len(results[0]["prompt_sha256"]) == 64


def test_what_was_measured_survives_a_failure(tmp_path: Path) -> None:
    class Failing(CountTask):
        def check(self, prompt: str, text: str) -> Any:
            if prompt == "5":
                raise RuntimeError("no idea")
            return super().check(prompt, text)

    with pytest.raises(RuntimeError, match="no idea"):
        compare(counting(), ["fixed-block"], [Failing()], limit=6, batch_size=2, output=tmp_path)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line).get("prompt") for line in lines] == [None, 0, 1, 2, 3]


def test_progress_counts_generations() -> None:
    seen: list[Progress] = []
    compare(counting(), ["fixed-block", "adablock"], [task], limit=4, batch_size=2, progress=seen.append)
    assert [one.done for one in seen] == [0, 2, 4, 6, 8] and {one.total for one in seen} == {8}
    assert seen[1].scheduler == "adablock"


def test_compiling_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm_sdk.execution.compiler", Compiler("eager"))
    seen: list[Progress] = []
    compare(counting(), ["fixed-block", "adablock"], [task], limit=4, backend="compile", progress=seen.append)
    assert seen[:2] == [Progress(0, 8, "compiling", name) for name in ("fixed-block", "adablock")]
    assert [one.done for one in seen[2:]] == [0, 4, 8]


def test_temperature_and_seed_are_used() -> None:
    runs = [
        compare(counting(), ["fixed-block"], [task], limit=2, temperature=t, seed=s)
        for t, s in ((40.0, 1), (40.0, 1), (40.0, 2))
    ]
    texts = [[outcome.text for outcome in run.outcomes] for run in runs]
    assert texts[0] == texts[1] != texts[2]
    assert runs[0].environment["temperature"] == 40.0


@dataclass(frozen=True)
class Headed(Pairs):
    """Two settings of equal repr."""

    head: torch.Tensor = field(default_factory=lambda: torch.zeros(2), compare=False, repr=False)


def test_heads_of_equal_repr_are_two_rows() -> None:
    heads = [Headed(head=torch.full((2,), float(n))) for n in range(3)]
    found = compare(counting(6), heads, [task], limit=4)
    assert [row.scheduler for row in found.rows] == [f"{heads[0]!r}{end}" for end in ("", " #2", " #3")]
    digests = [row.fields["head"] for row in found.rows]
    assert len(set(digests)) == 3 and all(one.startswith("Tensor ") for one in digests)
    assert [row.fields["head"] for row in compare(counting(6), heads, [task], limit=4).rows] == digests
    for twice in ([Headed(), Headed()], [*heads, heads[1]]):
        with pytest.raises(ConfigError, match="is given twice"):
            compare(counting(6), twice, [task], limit=4)
    again = diff(found, compare(counting(6), [replace(one, head=one.head + 9) for one in heads], [task], limit=4))
    assert len(again.changes) == 3  # trained anew, and still what is compared
    assert again.notes == [
        f"With other numbers in their tables or heads: {', '.join(row.scheduler for row in found.rows)}."
    ]
    turned = compare(counting(6), [heads[1], Headed(head=heads[0].head + 9)], [task], limit=4)
    two = compare(counting(6), heads[:2], [task], limit=4)
    assert [one.b.fields["head"] == one.a.fields["head"] for one in diff(two, turned).changes] == [False, True]
    with pytest.raises(ConfigError, match="B has no row with the class, fields and cache"):
        diff(two, compare(counting(6), [replace(one, block=4) for one in heads[:2]], [task], limit=4))


def test_classes_of_one_name_are_two_families(tmp_path: Path) -> None:
    for folder, number in (("x", 2), ("y", 3)):
        (tmp_path / folder).mkdir()
        code = f"from dataclasses import dataclass\nfrom tests.bench.toys import Pairs\nNUMBER = {number}\n"
        (tmp_path / folder / "mine.py").write_text(f"{code}@dataclass(frozen=True)\nclass Mine(Pairs):\n    pass\n")
    specs = [f"{tmp_path}/{name}/mine.py:Mine{end}" for name in "xy" for end in ("", ":block=4")]
    found = compare(counting(6), [*specs, "fixed-block"], [task], limit=4)
    assert [row.family for row in found.rows] == [
        *(f"{tmp_path}/{name}/mine.py:Mine" for name in "xxyy"),
        "FixedBlock",
    ]
    assert [one.family for one in found.aup] == [f"{tmp_path}/{name}/mine.py:Mine" for name in "xy"]


def test_fields_are_json_whatever_they_hold() -> None:
    assert describe(load_scheduler("adablock:delimiter_threshold=inf"))["delimiter_threshold"] == "inf"
    parts = describe(combine(plan=Pairs(3), select=lambda view: view.open))
    assert parts["plan_part"] == {"class": f"{Pairs.__module__}:Pairs", "block": 3}
    assert "lambda" in parts["select_part"]["function"]
    json.dumps(parts)


def test_the_digest_knows_names_values_and_types() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    base = digest({"a": weight, "b": torch.tensor(1.0)})
    assert base == digest({"b": torch.tensor(1.0), "a": weight.t().contiguous().t()})
    others = [{"c": weight}, {"a": weight.bfloat16()}, {"a": weight + 1}, {"a": weight.reshape(3, 2)}]
    assert len({base, *(digest(other) for other in others)}) == 5


def test_a_checkpoint_from_the_hub_is_known_by_its_commit() -> None:
    model = PublicTransformer(Config(vocab_size=9, mask_id=8, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8))
    assert fingerprint(model, "x")["revision"] is None
    model.revision = "abc"
    assert fingerprint(model, "x")["revision"] == "abc"


def test_public_names_are_there() -> None:
    for name in dllm_bench.__all__:
        assert getattr(dllm_bench, name).__doc__
    assert callable(dllm_bench.compare) and callable(dllm_bench.check)  # no module hides a function
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dllm_bench.nothing


def test_every_cache_is_measured_against_the_first_one() -> None:
    torch.manual_seed(0)
    config = Config(vocab_size=15, mask_id=14, eos_ids=(13,), width=16, layers=1, heads=2, kv_heads=2, mlp_width=16)
    model = Transformer(config, Letters())
    found = compare(model, ["fixed-block:block=4", "adablock"], [task], limit=4, caches=["none", "dual", "prefix"])
    names = [row.scheduler for row in found.rows]
    specs, caches = ("fixed-block:block=4", "adablock"), ("none", "dual", "prefix")
    assert names == [f"{spec}, {cache}" for spec in specs for cache in caches]
    by_name = dict(zip(names, found.rows, strict=True))
    assert [row.agreement for row in found.rows if row.cache == "none"] == [1.0, 1.0]
    assert {one.baseline for one in found.differences} <= {"fixed-block:block=4, none", "adablock, none"}
    plain, dual = by_name["fixed-block:block=4, none"], by_name["fixed-block:block=4, dual"]
    assert (plain.refreshes, plain.cache, dual.cache) == (0, "none", "dual")
    assert dual.refreshes >= 1 and dual.fed / dual.nfe < plain.fed / plain.nfe
    assert " fed" in str(found) and "agree" in str(found)
    with pytest.raises(ConfigError, match="cache dual is given twice"):
        compare(model, ["adablock"], [task], limit=4, caches=["dual", "dual"])
    with pytest.raises(ConfigError, match="BlockCache is for block-causal models"):
        compare(model, ["adablock"], [task], limit=4, caches=["block"])
    wrong: Any = [5]
    with pytest.raises(ConfigError, match=r"a cache must be a SPEC or a Cache, such as 'dual' or DualCache\(\), got 5"):
        compare(model, ["adablock"], [task], limit=4, caches=wrong)
