"""The shipped model: small, whole, described by its card, and able to do its tasks."""

import hashlib
import re

import pytest
import torch

from dllm_reference_model import tasks
from dllm_reference_model.evaluate import accuracy
from dllm_reference_model.load import WEIGHTS, tiny
from dllm_reference_model.tasks import Task


def test_the_card_names_the_digest_of_the_weights() -> None:
    weights = (WEIGHTS / "model.safetensors").read_bytes()
    assert len(weights) < 10e6
    assert hashlib.sha256(weights).hexdigest() in (WEIGHTS / "README.md").read_text()


def test_it_loads_as_the_loop_needs_it() -> None:
    model = tiny()
    assert (model.dtype, model.shift, model.block_causal) == (torch.float32, 0, False)
    assert model.tokenizer is not None and not model.training
    assert model.mask_id not in model.eos_ids and len(model.eos_ids) == 1
    assert tiny(str(WEIGHTS), dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("task", tasks.ALL, ids=lambda task: task.name)
def test_it_is_as_good_as_the_card_says(task: Task) -> None:
    row = re.search(rf"^\| {task.name} \|.*$", (WEIGHTS / "README.md").read_text(), re.MULTILINE)
    assert row
    strict = float(row[0].split("|")[3])
    found = accuracy(tiny(), task, "test", 40, seed=1).strict
    assert abs(found - strict) < 4 * (strict * (1 - strict) / 40) ** 0.5 + 0.05  # four standard errors
