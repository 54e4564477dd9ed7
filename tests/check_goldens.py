"""Replay the recorded outputs of public decoders: `python tests/check_goldens.py FOLDER`.

Every case goes through `generate` and the loaders, with the strategy that its public function is here. Tokens, commit
steps and block lengths must be equal; where a public decoder spends forward passes that decide nothing, or lets rows
wait for each other, ours is the wasteless count and the difference is printed.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from dllm_reference_model.load import dream, llada
from dllm_reference_model.model import Transformer
from dllm_sdk import View, decode
from dllm_strategies import AdaBlock, BlockRefinement, presets


class Outcome(NamedTuple):
    """What a case came to."""

    problem: str | None
    nfe: int
    expected_nfe: int


def preset(case: dict[str, Any]) -> presets.Preset:
    """The preset of a case's public function, with its arguments."""
    args = {key: math.inf if value == "inf" else value for key, value in case["args"].items()}
    family, *rest = case["method"].split(".")
    cache = {"cache": args.get("cache") or next((name for name in rest if name in ("prefix", "dual")), "none")}
    if family == "diffusers":
        return presets.diffusers_llada2(**pick(args, presets.diffusers_llada2))
    if family == "adablock":
        return presets.adablock(**pick(args, presets.adablock), **cache)
    if family == "llada":
        eos, eot = case.get("eos_token_id"), case.get("eot_token_id")
        no_eos = (eos,) if args.get("logits_eos_inf") else ()
        eos_last = (eos, eot) if args.get("confidence_eos_eot_inf") else ()
        return presets.llada(**pick(args, presets.llada), no_eos=no_eos, eos_last=eos_last)
    args.pop("cache", None)
    if family != "dream":
        return presets.fast_dllm(**pick(args, presets.fast_dllm), **cache)
    if rest == ["sample"]:
        return presets.dream(**pick(args, presets.dream))
    if "adablock" in rest:
        return presets.adablock_dream(**pick(args, presets.adablock_dream), **cache)
    return presets.fast_dllm_dream(**pick(args, presets.fast_dllm_dream), **cache)


def pick(args: dict[str, Any], function: Any) -> dict[str, Any]:
    """The arguments that our preset knows by the public name."""
    return {key: value for key, value in args.items() if key in inspect.signature(function).parameters}


class Run(NamedTuple):
    """What our loop did with one row of a case."""

    tokens: list[int]  # generated
    commit_step: list[int]  # per generated position
    blocks: list[int]
    nfe: int


def run_row(case: dict[str, Any], row: int, model: Any) -> Run:
    """Decode one row; left padding is dropped, since rows here start at column 0 and rotary positions are relative."""
    args = case["args"]
    hidden = case["args"].get("attention_mask", [[1] * len(case["prompt"][0])] * len(case["prompt"]))[row]
    prompt = [token for token, seen in zip(case["prompt"][row], hidden, strict=True) if seen]
    gen_length = args["gen_length"]
    if case["kind"] == "llada2_pipeline":  # its canvas ends with a whole block
        gen_length += -(len(prompt) + gen_length) % args["block_length"]
    steps = decode(
        model,
        [prompt],
        gen_length=gen_length,
        **preset(case),
        stop_at_eos=bool(args.get("eos_early_stop")),
    )
    commit_step, blocks, tokens, nfe = [-1] * gen_length, [], [], 0
    for nfe, step in enumerate(steps, start=1):
        for position in step.decision.commit[0].nonzero()[:, 0].tolist():
            commit_step[position - len(prompt)] = nfe - 1
        if int(step.view.step) == 0:
            blocks.append(int(step.view.open.sum()))
        tokens = step.tokens[0, len(prompt) :].tolist()
    return Run(tokens, commit_step, blocks, nfe)


def dense(steps: list[int]) -> list[int]:
    """Step numbers without the steps that committed nothing here: 0, 3, 4 -> 0, 1, 2."""
    places = {step: place for place, step in enumerate(sorted(set(steps)))}
    return [places[step] for step in steps]


def check_case(case: dict[str, Any], model: Any) -> Outcome:
    """Compare every row of a case with what was recorded."""
    expected, problems, nfes = case["expected"], [], []
    for row, sequence in enumerate(expected["sequences"]):
        run = run_row(case, row, model)
        nfes.append(run.nfe)
        start = 0 if case["kind"] == "llada2_pipeline" else len(case["prompt"][row])
        wanted = sequence[start:]
        if case["args"].get("eos_early_stop") and case["eos_token_id"] in wanted:
            wanted = wanted[: wanted.index(case["eos_token_id"]) + 1]
        steps = expected["commit_step"][row] if "commit_step" in expected else None
        if steps is not None and dense(run.commit_step) != dense(steps):
            first = next(i for i, (a, b) in enumerate(zip(dense(run.commit_step), dense(steps), strict=True)) if a != b)
            problems.append(f"row {row}: position {first} commits at step {run.commit_step[first]}, not {steps[first]}")
        elif run.tokens[: len(wanted)] != wanted:
            first = next(i for i, (a, b) in enumerate(zip(run.tokens, wanted, strict=False)) if a != b)
            at = run.commit_step[first]
            problems.append(f"row {row}: position {first} (step {at}) is {run.tokens[first]}, not {wanted[first]}")
        if "block_lengths" in expected and "sample" not in case["method"] and run.blocks != expected["block_lengths"]:
            problems.append(f"row {row}: blocks {run.blocks}, not {expected['block_lengths']}")
    return Outcome("; ".join(problems) or None, max(nfes), expected["nfe"])


def toy_view(logits: torch.Tensor, tokens: torch.Tensor, open: torch.Tensor, committed: torch.Tensor) -> View:
    """A view of one row from recorded logits [L, V], every position computed."""
    confidence, draft = logits.float().softmax(-1).max(-1)
    rows = torch.zeros(1, dtype=torch.int64)
    parts = (tokens, open, committed, draft, confidence)
    window = torch.arange(len(tokens))[None]
    return View(*(part[None] for part in parts), rows, rows, rows, logits.float()[None], window)


def check_block_lengths(folder: Path, cases: dict[str, Any]) -> list[str]:
    """AdaBlock's plan on recorded logits; the names of those that differ."""
    tensors, wrong = load_file(folder / cases["file"]) if cases["items"] else {}, []
    for item in cases["items"]:
        logits = tensors[f"{item['name']}.logits"]
        logits = logits[0] if logits.dim() == 3 else logits
        done = item["prompt_length"] + item["generated_length"]
        left = item["gen_length"] - item["generated_length"]
        positions = torch.arange(len(logits))
        open = (positions >= done) & (positions < done + left)
        view = toy_view(logits, torch.zeros_like(positions), open, torch.zeros_like(open))
        view = view._replace(gen_length=torch.tensor([item["gen_length"]]))
        threshold = math.inf if item["delimiter_threshold"] == "inf" else item["delimiter_threshold"]
        scheduler = AdaBlock(tuple(item["delimiter_ids"]), item["default_block_length"], 0.9, threshold)
        ahead = open & (open.cumsum(0) <= scheduler.horizon(item["gen_length"]))
        block, _ = scheduler.plan(view._replace(open=ahead[None]), ())
        if int(block.sum()) != item["expected_block_length"]:
            wrong.append(f"{item['name']}: {int(block.sum())}, not {item['expected_block_length']}")
    return wrong


def check_scheduler_steps(folder: Path, cases: dict[str, Any]) -> tuple[int, list[str]]:
    """One step of block refinement on recorded logits: how many there are, and those that differ."""
    tensors, wrong = load_file(folder / cases["file"]) if cases["items"] else {}, []
    for item in cases["items"]:
        args, name = item["args"], item["name"]
        logits, sample = tensors[f"{name}.logits"].clone(), tensors[f"{name}.sample"].long()
        wanted = tensors[f"{name}.prev_sample"].long()
        prompt = tensors.get(f"{name}.prompt_mask", torch.zeros_like(sample)).bool()
        logits[..., args["mask_token_id"]] = -torch.inf  # as our loop does before anything is drafted
        edit = max(args["editing_threshold"] or 0.0, 0.0)
        scheduler = BlockRefinement(args["block_length"], args["num_inference_steps"], args["threshold"], edit)
        for row in range(len(sample)):
            given = prompt[row] if prompt.dim() == 2 else prompt
            masked = sample[row] == args["mask_token_id"]
            view = toy_view(logits[row], sample[row], masked & ~given, ~masked & ~given)
            view = view._replace(step=torch.tensor([args["timestep"]]))
            decision, _ = scheduler.select(view, (torch.zeros(1, dtype=torch.int64),))
            changed = decision.commit if decision.edit is None else decision.commit | decision.edit
            got = torch.where(changed[0], view.draft[0], sample[row])
            if not got.equal(wanted[row]):
                where = (got != wanted[row]).nonzero()[0].item()
                wrong.append(f"{name} row {row}: position {where} is {int(got[where])}, not {int(wanted[row][where])}")
    return len(cases["items"]), wrong


def recorded(model: Transformer, item: dict[str, Any], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our logits and the recorded ones of a forward item, where they are to be compared."""
    tensors = {key.partition(".")[2]: value for key, value in given.items() if key.split(".")[0] == item["name"]}
    wanted, every = tensors["logits"], torch.arange(item["length"])[None]
    if item["type"] in ("prefix_cache", "dual_cache"):
        window = every[:, item["window_start"] : item.get("window_end", item["length"])]
        store = model.new_store(1, item["length"])
        model(tensors["cache_ids"].long(), every, store)
        return model.head(model(tensors["window_ids"].long(), window, store)), wanted
    ids = tensors["input_ids"].long()
    seen = tensors.get("attention_mask", torch.ones_like(ids)).bool()
    mask = seen[:, None] if "attention_mask" in tensors else None
    return model.head(model(ids, every.expand_as(ids), None, mask))[seen], wanted[seen]


def check_forward(folder: Path, spec: dict[str, Any], model: Transformer) -> list[str]:
    """Recorded logits of single forward passes; the items beyond the tolerance."""
    tensors, wrong = load_file(folder / spec["file"]), []
    for item in spec["items"]:
        found, wanted = recorded(model, item, tensors)
        gap = float((found - wanted).abs().max())
        if gap > spec["tolerance"]:
            wrong.append(f"{spec['file']} {item['name']}: off by {gap:.1e}")
    return wrong


@torch.no_grad()
def main(folder: Path) -> int:
    """Print a line per method, then what failed; 0 if nothing did."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    models = {
        name: (dream if spec["kind"] == "dream" else llada)(str(folder / spec["folder"]))
        for name, spec in manifest["models"].items()
    }
    passed, total, wasted = Counter(), Counter(), defaultdict(int)
    failures: list[str] = []
    for case in manifest["cases"]:
        outcome = check_case(case, models[case["model"]])
        total[case["method"]] += 1
        passed[case["method"]] += outcome.problem is None
        wasted[case["method"]] += outcome.expected_nfe - outcome.nfe
        excused = case["quirks"] or len(case["prompt"]) > 1
        if outcome.problem:
            failures.append(f"{case['id']}: {outcome.problem}")
        elif outcome.nfe != outcome.expected_nfe and not excused:
            failures.append(f"{case['id']}: {outcome.nfe} forward passes, not {outcome.expected_nfe}")
            passed[case["method"]] -= 1
    for method in total:
        saved = f"  ({wasted[method]} forward passes fewer)" if wasted[method] else ""
        print(f"{method:28} {passed[method]}/{total[method]}{saved}")
    none = {"items": [], "file": None}  # a folder need not have every kind of case
    lengths = manifest.get("block_length_cases", none)
    wrong = check_block_lengths(folder, lengths)
    print(f"{'block lengths':28} {len(lengths['items']) - len(wrong)}/{len(lengths['items'])}")
    count, odd = check_scheduler_steps(folder, manifest.get("scheduler_step_cases", none))
    print(f"{'scheduler steps':28} {count - len({line.split()[0] for line in odd})}/{count}")
    forward = manifest.get("forward", {})
    off = {name: check_forward(folder, spec, models[name]) for name, spec in forward.items()}
    print(f"{'forward logits':28} {sum(not lines for lines in off.values())}/{len(forward)}")
    print(f"{'total':28} {sum(passed.values())}/{sum(total.values())}")
    failures += wrong + odd + [line for lines in off.values() for line in lines]
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/check_goldens.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
