"""The shipped models: small, whole, described by their cards, and able to do their tasks."""

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch

from dllm_reference_model import tasks, train
from dllm_reference_model.evaluate import accuracy
from dllm_reference_model.load import CAUSAL_WEIGHTS, WEIGHTS, tiny, tiny_causal
from dllm_reference_model.tasks import Task
from dllm_sdk import BlockCache, generate, load_model, load_scheduler

SHIPPED = [WEIGHTS, CAUSAL_WEIGHTS]
folders = pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)


@folders
def test_the_card_names_the_digest_of_the_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    assert len(weights) < 10e6
    assert hashlib.sha256(weights).hexdigest() in (folder / "README.md").read_text()


@folders
def test_the_command_in_the_card_is_one_that_trains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (folder / "README.md").read_text().partition("python -m dllm_reference_model.train")[2].partition("```")[0]
    paths = {"RUN": str(tmp_path / "run"), "FOLDER": str(WEIGHTS)}
    given = [paths.get(word, word) for word in text.replace("\\\n", " ").split()]
    recipes: list[train.Recipe] = []
    monkeypatch.setattr(train, "together", lambda processes, work, recipe, *rest: recipes.append(recipe))
    monkeypatch.setattr(sys, "argv", ["train", *given])
    train.main()
    assert [recipe.block_causal for recipe in recipes] == [folder == CAUSAL_WEIGHTS]


def test_they_load_as_the_loop_needs_them() -> None:
    for model, block_causal in ((tiny(), False), (tiny_causal(), True)):
        assert (model.dtype, model.shift, model.block_causal) == (torch.float32, 0, block_causal)
        assert model.tokenizer is not None and not model.training
        assert model.mask_id not in model.eos_ids and len(model.eos_ids) == 1
    assert tiny(str(WEIGHTS), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert len({(folder / "tokenizer.json").read_bytes() for folder in SHIPPED}) == 1


@folders
@pytest.mark.parametrize("task", tasks.ALL, ids=lambda task: task.name)
def test_it_is_as_good_as_the_card_says(task: Task, folder: Path) -> None:
    row = re.search(rf"^\| {task.name} \|.*$", (folder / "README.md").read_text(), re.MULTILINE)
    assert row
    strict = float(row[0].split("|")[3])
    assert strict >= 0.4
    found = accuracy(tiny(str(folder)), task, "test", 40, seed=1).strict
    assert abs(found - strict) < 4 * (strict * (1 - strict) / 40) ** 0.5 + 0.05  # four standard errors


@pytest.mark.parametrize("scheduler", ["fixed-block:block=8", "confidence-adaptive", "adablock", "threshold:block=5"])
def test_a_block_cache_is_exact_for_the_block_causal_one(scheduler: str) -> None:
    model = load_model("tiny-causal", dtype="float64")
    prompts = [prompt for task in tasks.ALL for prompt in task.prompts("test", 3, seed=5)]
    plain = generate(model, prompts, load_scheduler(scheduler), gen_length=64)
    cached = generate(model, prompts, load_scheduler(scheduler), gen_length=64, cache=BlockCache())
    assert plain.text == cached.text and plain.nfe == cached.nfe
    assert sum(cached.fed) < 0.7 * sum(plain.fed)
