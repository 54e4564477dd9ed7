"""Training: the masks are exact, a killed run ends as an uninterrupted one, two processes agree with one."""

import dataclasses
import hashlib
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllm_reference_model import checkpoint, evaluate, tasks
from dllm_reference_model.card import card
from dllm_reference_model.card import main as write_card
from dllm_reference_model.data import Mix, Sample, batches, in_blocks, masked, sample
from dllm_reference_model.evaluate import decode, text_of
from dllm_reference_model.load import WEIGHTS
from dllm_reference_model.model import Transformer
from dllm_reference_model.muon import Muon, orthogonal
from dllm_reference_model.peers import Peers
from dllm_reference_model.tokenizer import Tokenizer
from dllm_reference_model.train import MODEL, STATE, main, train
from dllm_reference_model.trainer import DRY, Trainer, new_model, objective, read_state

HERE = Path(__file__).parent
TOKENIZER = Tokenizer.load(WEIGHTS / "tokenizer.json")
MIX = Mix({"expr": 1.0, "story": 1.0})


@pytest.mark.parametrize("block_causal", [False, True])
def test_batches_follow_from_the_counter(block_causal: bool) -> None:
    stream = batches(3, MIX, TOKENIZER, (0, 0), block_causal=block_causal)
    seen = [next(stream) for _ in range(30)]
    chunk = next(index for index, (counter, _) in enumerate(seen) if counter[0] == 1)
    for start in (4, chunk):  # in the middle and at the end of a chunk
        counter, parts = next(batches(3, MIX, TOKENIZER, seen[start][0], block_causal=block_causal))
        assert counter == seen[start + 1][0]
        for a, b in zip(parts, seen[start + 1][1], strict=True):
            assert torch.equal(a.tokens, b.tokens) and (not block_causal or torch.equal(a.visible, b.visible))
    other = next(batches(4, MIX, TOKENIZER, (0, 0), block_causal=block_causal))[1]
    assert not torch.equal(other[0].target, seen[0][1][0].target)


def test_every_step_has_about_as_many_tokens_and_lengths_of_all_kinds() -> None:
    stream = batches(3, MIX, TOKENIZER, (0, 0))
    steps = [next(stream)[1] for _ in range(100)]
    tokens = torch.tensor([sum(part.tokens.numel() for part in parts) for parts in steps]) / MIX.tokens_per_step
    assert all(len(parts) == MIX.parts for parts in steps)
    assert tokens.min() > 0.7 and tokens.max() < 1.5 and 0.9 < tokens.mean() < 1.15
    spread = [max(part.tokens.shape[1] for part in parts) / min(p.tokens.shape[1] for p in parts) for parts in steps]
    assert sorted(spread)[50] > 1.5  # a step sees short and long samples, so several tasks


def test_samples_have_the_room_of_their_mix() -> None:
    rng = random.Random(0)
    for share, rooms in ((0.0, range(8)), (1.0, (tasks.expr.gen_length, 128))):
        mix = dataclasses.replace(MIX, full_length=share)
        samples = [sample(tasks.expr, rng, mix, TOKENIZER) for _ in range(200)]
        used = [len(one.prompt) + (0 if share else len(one.answer)) for one in samples]
        assert {one.length - n for one, n in zip(samples, used, strict=True)} == set(rooms)


def test_masks_cover_the_answer_and_nothing_else() -> None:
    samples = [
        Sample([20] * prompt, [30] * answer + [TOKENIZER.eos_id], 40) for prompt, answer in [(5, 9), (30, 3)] * 200
    ]
    noise = torch.Generator().manual_seed(0)
    batch = masked(samples, dataclasses.replace(MIX, clean_prefix=0.0), TOKENIZER, noise)
    hidden = batch.tokens == TOKENIZER.mask_id
    assert torch.equal(hidden, batch.weight > 0)
    assert torch.equal(batch.tokens[~hidden], batch.target[~hidden])
    count = hidden.sum(1)
    for parity, free in ((0, 35), (1, 10)):
        assert not hidden[parity::2, : 40 - free].any()  # the prompt
        assert set(count[parity::2].tolist()) == set(range(1, free + 1))  # every number of masks
        # A row's weights add up to its free positions: the objective is an unbiased sum over them.
        torch.testing.assert_close(batch.weight[parity::2].sum(1) * (200 * 45), torch.full((200,), float(free)))


def test_clean_prefixes_are_cut_at_any_token() -> None:
    samples = [Sample([20] * 4, [30] * 9 + [TOKENIZER.eos_id], 14)] * 4000
    batch = masked(samples, MIX, TOKENIZER, torch.Generator().manual_seed(1))
    hidden = batch.tokens == TOKENIZER.mask_id
    full = hidden.sum(1) > 0
    first = hidden.int().argmax(1) - 4
    assert full.all() and set(first.tolist()) == set(range(10))
    # A whole rest masked behind a clean beginning, what semi-autoregressive decoding shows, is common.
    behind = (hidden.sum(1) == 10 - first) & (first > 0)
    assert 0.1 < behind.float().mean() < 0.4


def test_muon_steps_along_the_nearest_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    wide, tall = torch.randn(8, 24), torch.randn(24, 8)
    found = orthogonal(wide[None])[0]
    left, _, right = torch.linalg.svd(wide, full_matrices=False)
    singular = torch.linalg.svdvals(found)
    assert (singular > 0.6).all() and (singular < 1.3).all()
    assert (found * (left @ right)).sum() / found.norm() / 8**0.5 > 0.97
    before = tall.clone()
    tall.grad, wide.grad = wide.mT.clone(), wide.clone()
    Muon([wide, tall]).step(0.1, Peers())
    torch.testing.assert_close(tall, before - 0.1 * 3**0.5 * found.mT)  # scaled by sqrt(rows / columns)
    assert tall.grad is None and wide.grad is None


def test_loss_falls_and_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    whole = train(DRY, tmp_path / "whole", prompts=2)
    train(DRY, tmp_path / "parts", stop_after=5)
    assert not (tmp_path / "parts" / MODEL).exists()
    again = train(DRY, tmp_path / "parts", prompts=2)
    for name in (f"{MODEL}/model.safetensors", f"{MODEL}/config.json", "curve.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert (whole.step, whole.tokens, whole.next) == (again.step, again.tokens, again.next)
    state = load_file(tmp_path / "whole" / STATE)
    assert all(torch.equal(value, state[name]) for name, value in again.tensors().items())
    batch = next(batches(9, DRY.mix, whole.tokenizer, (0, 0)))[1][0]
    fresh = new_model(DRY, whole.tokenizer)
    assert objective(whole.averaged, batch) < 0.9 * objective(fresh, batch)
    shipped = checkpoint.load(tmp_path / "whole" / MODEL, dtype=torch.float32).embed.weight
    assert torch.equal(shipped, whole.averaged.embed.weight.bfloat16().float())  # the mean of the weights is shipped
    loaded = checkpoint.load(tmp_path / "whole" / MODEL)
    assert loaded.dtype == torch.bfloat16 and loaded.tokenizer is not None


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(DRY, tmp_path, stop_after=1)
    with pytest.raises(checkpoint.CheckpointError, match="another recipe, of seed 0, not 1; steps 12, not 9: give"):
        train(dataclasses.replace(DRY, steps=9, seed=1), tmp_path)
    recipe = json.dumps({**dataclasses.asdict(DRY), "older": 1})
    save_file({"model.x": torch.zeros(1)}, tmp_path / "older", {"recipe": recipe})
    with pytest.raises(checkpoint.CheckpointError, match="of older 1, not None"):
        read_state(tmp_path / "older", DRY)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-9])
    with pytest.raises(checkpoint.CheckpointError, match="torn or not a safetensors file"):
        train(DRY, tmp_path)


def test_a_run_may_start_from_a_checkpoint_and_the_card_tells(tmp_path: Path) -> None:
    train(DRY, tmp_path / "one", prompts=1)
    onward = dataclasses.replace(DRY, start=str(tmp_path / "one" / MODEL), seed=1)
    started = Trainer(onward, Peers()).model.state_dict()
    assert all(
        torch.equal(v, started[n]) for n, v in checkpoint.load(onward.start, dtype=torch.float32).state_dict().items()
    )
    onward = dataclasses.replace(onward, processes=1, mix=dataclasses.replace(DRY.mix, clean_prefix=0.25))
    train(onward, tmp_path / "two", prompts=1)
    with pytest.raises(checkpoint.CheckpointError, match="holds Config"):
        Trainer(dataclasses.replace(onward, width=64), Peers())
    text = card([tmp_path / "one", tmp_path / "two"], n=2, name="dry", note="Nothing else.")
    for picture in ("curve.svg", "calibration.svg"):
        assert picture in text and (tmp_path / "two" / MODEL / picture).read_text().startswith("<svg")
    assert "trained from scratch on\ntwo tasks" in text and "| record |" not in text
    assert text.count("--start FOLDER --processes 1 --clean-prefix 0.25 \\\n") == 1
    assert text.count("train --output RUN --steps 12") == 2
    assert text.count("--start") == 1 and "\nNothing else.\n" in text
    assert hashlib.sha256((tmp_path / "two" / MODEL / "model.safetensors").read_bytes()).hexdigest() in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--clean-prefix", "1.5"], "expected a share from 0 to 1, got '1.5'"),
        (["--mix", "expr=0,sort=0"], "expected a share above 0, got 'expr=0,sort=0'"),
        (["--clean-prefix", "much"], "expected a share from 0 to 1, got 'much'"),
        (["--processes", "5"], "--processes must be <= 4, the parts of a step, got 5"),
        (["--dry-run", "--steps", "7", "--seed", "3"], "has its own recipe: give it without --steps, --seed"),
    ],
)
def test_a_bad_option_is_named(
    options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--output", "unused", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "options", "sentence"),
    [
        (main, f"--output {HERE} --start nowhere", "nowhere/config.json does not exist"),
        (evaluate.main, "--model nowhere", "nowhere/config.json does not exist"),
        (evaluate.main, "-n 1 --block -1", "block must be >= 1, got -1"),
        (evaluate.main, "-n 0", "n must be >= 1, got 0"),
        (write_card, "nowhere", "nowhere/model/config.json does not exist"),
    ],
)
def test_a_wrong_checkpoint_is_a_sentence(
    program: Callable[[], None],
    options: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Tokenizer, "build", lambda **_: TOKENIZER)
    monkeypatch.setattr(sys, "argv", ["program", *options.split()])
    with pytest.raises(SystemExit) as stopped:
        program()
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 1 and line.startswith("python -m dllm_reference_model.") and sentence in line


@pytest.mark.parametrize("mix", ["expr", "expr=x", "chess=1", "expr=-1", "expr=nan"])
def test_a_bad_mix_is_named(mix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--output", "unused", "--mix", mix])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "expected TASK=SHARE with a task of" in capsys.readouterr().err


def test_two_peers_see_the_whole_gradient_between_them() -> None:
    parts = next(batches(0, DRY.mix, Trainer(DRY, Peers()).tokenizer, (0, 0)))[1]
    assert len(parts) == 2

    class Half(Peers):
        def __init__(self, rank: int) -> None:
            super().__init__(rank, 2)
            self.sent: list[torch.Tensor] = []

        def sum(self, tensor: torch.Tensor) -> None:
            self.sent.append(tensor.clone())

    class Whole(Half):
        def __init__(self) -> None:
            super().__init__(0)
            self.count = 1

    first, second, alone = Half(0), Half(1), Whole()
    for peers in (first, second, alone):
        loss = Trainer(DRY, peers).update(parts)
    torch.testing.assert_close(first.sent[0] + second.sent[0], alone.sent[0], rtol=1e-4, atol=1e-6)
    fresh = Trainer(DRY, Peers())
    torch.testing.assert_close(loss, sum(objective(fresh.model, part) for part in parts).detach() / 2)
    trained = [*(weight for group in fresh.muon.groups for weight in group), *fresh.adam.param_groups[0]["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, fresh.model.parameters()))  # each weight by one optimiser


def test_blocks_of_a_causal_sample_see_what_a_decoder_with_a_cache_sees() -> None:
    """Alone, each masked block behind its clean predecessors gets the hidden states of the one pass that trains all."""
    recipe = dataclasses.replace(DRY, block_causal=True)
    model = new_model(recipe, TOKENIZER).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
    rng = random.Random(5)
    drawn = [sample(task, rng, MIX, TOKENIZER) for task in tasks.ALL]
    batch = in_blocks(drawn, MIX, TOKENIZER, torch.Generator().manual_seed(2))
    assert batch.visible is not None
    length = batch.tokens.shape[1] // 2
    whole = model(batch.tokens, batch.positions, None, batch.visible)
    for row, one in enumerate(drawn):
        same_block = batch.visible[row, length:, length:]
        starts = [i for i in range(length) if not same_block[i, :i].any()]
        assert starts[:2] == [0, len(one.prompt)] and not (batch.weight[row] > 0)[: length + len(one.prompt)].any()
        blocks = [*starts, length]
        store = model.new_store(1, length)
        for begin, end in itertools.pairwise(blocks):
            seen = (torch.arange(length) < end)[None, None]
            at = torch.arange(begin, end)[None]
            masked_block = batch.tokens[row, length + begin : length + end][None]
            alone = model(masked_block, at, store, seen)
            torch.testing.assert_close(alone[0], whole[row, length + begin : length + end])
            model(batch.target[row, begin:end][None], at, store, seen)  # the final tokens' keys are what stays
    hidden = batch.tokens[:, length:] == TOKENIZER.mask_id
    assert torch.equal(hidden, batch.weight[:, length:] > 0)


def test_blocks_end_at_line_ends_or_anywhere() -> None:
    rng = random.Random(5)
    drawn = [sample(tasks.story, rng, MIX, TOKENIZER) for _ in range(300)]
    line_end = TOKENIZER.encode("\n")[0]
    shares = []
    for line_ends in (0.0, 1.0):
        mix = dataclasses.replace(MIX, line_ends=line_ends)
        batch = in_blocks(drawn, mix, TOKENIZER, torch.Generator().manual_seed(2))
        assert batch.visible is not None
        length = batch.tokens.shape[1] // 2
        same = batch.visible[:, length:, length:]
        ends = ~same.diagonal(1, 1, 2)  # position i ends a block if i + 1 is in another
        answer = torch.arange(length - 1) >= torch.tensor([len(one.prompt) for one in drawn])[:, None]
        at_line = batch.target[:, : length - 1] == line_end
        shares.append(((ends & answer & at_line).sum() / (ends & answer).sum()).item())
        assert line_ends or 0.05 < (ends & answer).sum() / answer.sum() < 0.6
    assert shares[0] < 0.3 and shares[1] == 1.0


def test_the_command_trains_in_two_processes_and_names_bad_input(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dllm_reference_model.train", "--output", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "steps must be >= 1" in run("--steps", "0").stderr
    done = run("--dry-run", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "curve.json").read_text())[-1]["step"] == DRY.steps
    checkpoint.load(tmp_path / MODEL)
    refused = run("--steps", "7")
    assert (
        refused.returncode == 1 and "belongs to another recipe" in refused.stderr and "Traceback" not in refused.stderr
    )


def test_a_block_causal_model_is_decoded_as_with_an_exact_cache() -> None:
    """Its later blocks do not change its earlier ones: a longer canvas gives the same beginning."""
    model = new_model(dataclasses.replace(DRY, block_causal=True), TOKENIZER).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
    short, _ = decode(model, [[40, 41, 42]], 8, block=4)
    long, _ = decode(model, [[40, 41, 42]], 16, block=4)
    assert torch.equal(short, long[:, :8])
    model.block_causal = False
    assert not torch.equal(short, decode(model, [[40, 41, 42]], 8, block=4)[0])


class Oracle(Transformer):
    """Knows one answer, is surer of it from the left, and never sees more than tokens and masks."""

    answer: torch.Tensor

    def forward(self, tokens, positions, store=None, key_mask=None):  # type: ignore[no-untyped-def]
        return positions

    def head(self, hidden):  # type: ignore[no-untyped-def]
        logits = torch.zeros(*hidden.shape, self.vocab_size)
        sure = 20.0 - 0.01 * hidden.float()
        return logits.scatter(-1, self.answer[hidden.clamp(max=len(self.answer) - 1)][..., None], sure[..., None])


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", ("test", 500, 0, 32, 0.9)),
        ("-n 4 --split validation --seed 3 --block 8 --threshold 0.5", ("validation", 4, 3, 8, 0.5)),
    ],
)
def test_the_table_of_a_checkpoint_is_what_was_measured(
    options: str, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def measured(_: Transformer, task: tasks.Task, split: str, n: int, **how: float) -> evaluate.Accuracy:
        seen.append((task, (split, n, how["seed"], how["block"], how["threshold"])))
        return evaluate.Accuracy(0.5, len(seen) / 10, 10.0 * len(seen))

    monkeypatch.setattr(evaluate, "accuracy", measured)
    monkeypatch.setattr(sys, "argv", ["program", *options.split()])
    evaluate.main()
    assert seen == [(task, asked) for task in tasks.ALL]
    assert capsys.readouterr().out.endswith("| trace | 0.500 | 0.500 | 50.0 |\n| all | 0.500 | 0.300 | 30.0 |\n")


@pytest.mark.parametrize(("threshold", "passes"), [(0.9, 2), (1.01, 12)])
def test_the_plain_decoder(threshold: float, passes: int) -> None:
    model = Oracle(new_model(DRY, TOKENIZER).config)
    eos = TOKENIZER.eos_id
    text = TOKENIZER.encode("12+3=15\n15")  # 8 tokens
    prompt = [40, 41, 42]
    model.answer = torch.tensor([*prompt, *text, *[eos] * 30])
    ids, nfe = decode(model, [prompt, prompt], 18, block=6, threshold=threshold)
    assert ids.shape == (2, 18) and text_of(ids[0].tolist(), TOKENIZER) == "12+3=15\n15"
    assert nfe.tolist() == [passes, passes]  # two blocks; the third opens behind the EOS and costs nothing
