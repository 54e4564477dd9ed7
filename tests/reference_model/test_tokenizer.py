"""The tokenizer gives back every task text, and answers fit the room that tasks ask for."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_reference_model import tasks
from dllm_reference_model.load import WEIGHTS
from dllm_reference_model.tasks import Task
from dllm_reference_model.tokenizer import SPECIALS, Tokenizer

SHIPPED = Tokenizer.load(WEIGHTS / "tokenizer.json")
SPECIAL_IDS = list(range(len(SPECIALS)))  # mask, EOS, padding, begin


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("task", tasks.ALL, ids=lambda task: task.name)
def test_task_texts_come_back_and_answers_fit(task: Task, level: int) -> None:
    harder, rng = type(task)(level), Random(9)
    for _ in range(200):
        prompt, answer = harder.sample(rng)
        ids = SHIPPED.encode(answer)
        assert SHIPPED.decode(SHIPPED.encode(prompt) + ids) == prompt + answer
        assert len(ids) + 1 <= harder.gen_length
    assert harder.gen_length % 16 == 0


@given(st.text(alphabet="\n" + "".join(map(chr, range(32, 127)))))
def test_any_ascii_text_comes_back(text: str) -> None:
    assert SHIPPED.decode(SHIPPED.encode(text)) == text
    assert not set(SPECIAL_IDS) & set(SHIPPED.encode(text))


def test_special_tokens_leave_no_text() -> None:
    assert SHIPPED.decode([3, *SHIPPED.encode("=13"), *SPECIAL_IDS]) == "=13"
    assert [SHIPPED.mask_id, SHIPPED.eos_id] == SPECIAL_IDS[:2]


def test_numbers_and_line_breaks_are_one_token() -> None:
    assert all(len(SHIPPED.encode(str(number))) == 1 for number in range(100))
    assert len(SHIPPED.encode("\n#### 7")) == 3


def test_other_characters_are_named() -> None:
    with pytest.raises(ValueError, match="printable ASCII and line breaks only, got 'é'"):
        SHIPPED.encode("café")


def test_building_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Tokenizer.build(samples=20).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_the_shipped_tokenizer_is_what_the_generators_give(tmp_path: Path) -> None:
    Tokenizer.build().save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (WEIGHTS / "tokenizer.json").read_bytes()
