"""A model and a scheduler as EleutherAI's lm-evaluation-harness wants them: the LM `dllm`. Needs the extra `lm-eval`.

It answers `generate_until` requests, as tasks with free text make them. A masked-diffusion model has no left-to-right
likelihood: tasks of multiple choice and perplexity are refused in one sentence. Knows requests, no task.

The command is `dllm-bench lm-eval`. Releases of the harness after 0.4.13 find the class through the entry point
`lm_eval.models`: `lm_eval --model dllm --model_args model=tiny,scheduler=adablock`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import dllm_sdk
from dllm_bench.environment import family, model_identity, model_name
from dllm_bench.inputs import TOKENIZER_CURE, check_fits, check_whole, load_any_cache, load_any_model, load_schedulers
from dllm_sdk import Cache, ConfigError, Model, Sampler, Scheduler, generate
from dllm_sdk.binding import describe

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ConfigError(f"lm-eval is needed ({error}): pip install 'dllm-sdk[lm-eval]'") from error

GEN_LENGTH = 256  # where neither the task nor the user says: the harness' own default
_IGNORED_WHEN_GREEDY = {"temperature", "top_p", "top_k", "min_p"}

Chat = Callable[[Sequence[Mapping[str, str]]], str]
"""From messages to a prompt that ends where the answer begins."""


class Ask(NamedTuple):
    """A request, understood."""

    task: str
    doc: int  # number of the document in its task
    repeat: int  # how often this document was asked before
    ids: list[int]
    gen_length: int
    sampler: Sampler
    until: list[str]


class Answer(NamedTuple):
    """What an answer cost."""

    nfe: int  # forward passes
    generated: int  # tokens up to and including the first EOS, what lies behind a stop string included
    truncated: int  # tokens of the prompt that did not fit, cut off at its left


@register_model("dllm")
class DLLM(LM):  # type: ignore[misc]
    """A dllm-sdk model with a scheduler."""

    def __init__(
        self,
        model: str | Model = "tiny",
        scheduler: str | Scheduler[Any] = "adablock",
        *,
        cache: str | Cache = "none",
        gen_length: int | None = None,
        chat: str | Chat | None = None,
        seed: int = 0,
        batch_size: int | str | None = 32,
        device: str | None = "cpu",
        dtype: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """`gen_length`: positions to generate (None: a task's max_gen_toks, else 256).

        `chat`: "tokenizer" for the tokenizer's own template, or a function from messages to a prompt, or its
        MODULE:FUNCTION. `max_batch_size` is the harness', for batches that it measures itself; nothing reads it.
        Raises ConfigError and RegistryError.
        """
        super().__init__()
        check_whole("gen_length", gen_length, 1, optional=True)
        self.batch_size = _batch_size(batch_size)
        ((self.name, self.scheduler),) = load_schedulers([scheduler])
        self.policy = load_any_cache(cache)
        self.chat = chat if chat is None or chat == "tokenizer" else _function(chat)
        self.model_name = model_name(model)
        self.model = load_any_model(model, device or "cpu", dtype)
        check_fits(self.model, self.scheduler, self.policy)
        if self.model.tokenizer is None:
            raise ConfigError(f"model {self.model_name} has no tokenizer to read a task's prompts with{TOKENIZER_CURE}")
        self.gen_length, self.seed = gen_length, seed
        self.answers: dict[tuple[str, int], list[Answer]] = {}

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One text per request, cut at the first of its stop strings."""
        seen: dict[tuple[str, int, int], int] = {}
        asks = []
        for request in requests:
            key = (str(request.task_name), int(request.doc_id), int(request.idx))
            asks.append(self._ask(request, seen.get(key, 0)))
            seen[key] = seen.get(key, 0) + 1
        texts = [""] * len(asks)
        for numbers in self._batches(asks):
            part = [asks[number] for number in numbers]
            for number, text in zip(numbers, self._decode(part), strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    def _batches(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Requests with one sampler and seed together, long prompts first."""
        groups: dict[tuple[Sampler, int], list[int]] = {}
        for number in sorted(range(len(asks)), key=lambda i: -len(asks[i].ids) - asks[i].gen_length):
            groups.setdefault((asks[number].sampler, asks[number].repeat), []).append(number)
        size = self.batch_size
        return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]

    def _decode(self, asks: Sequence[Ask]) -> list[str]:
        longest = self.model.max_length
        cut = [0 if longest is None else max(0, len(one.ids) + one.gen_length - longest) for one in asks]
        found = generate(
            self.model,
            [one.ids[n:] for one, n in zip(asks, cut, strict=True)],
            self.scheduler,
            gen_length=[one.gen_length for one in asks],
            cache=self.policy,
            sampler=asks[0].sampler,
            seed=self.seed + asks[0].repeat,
        )
        for row, one in enumerate(asks):
            answer = Answer(found.nfe[row], found.generated[row], cut[row])
            self.answers.setdefault((one.task, one.doc), []).append(answer)
        return [_until(text or "", one.until) for text, one in zip(found.text, asks, strict=True)]

    def _ask(self, request: Any, repeat: int) -> Ask:
        context, given = request.args
        options, task = dict(given), str(request.task_name)
        stops = options.pop("until", None) or []
        asked = options.pop("max_gen_toks", None)
        if self.gen_length is None:
            check_whole(f"max_gen_toks of task {task}", asked, 1, optional=True)
        length = self.gen_length or asked or GEN_LENGTH
        sampler = _sampler(task, options)
        if self.model.max_length is not None and length >= self.model.max_length:
            raise ConfigError(
                f"task {task} asks for {length} tokens, but the model's context holds {self.model.max_length}: lower "
                "gen_length"
            )
        try:
            ids = list(self.model.tokenizer.encode(context))
        except ValueError as error:  # a character that the tokenizer does not know
            raise ConfigError(f"task {task}, document {request.doc_id}: {error}") from error
        until = [stops] if isinstance(stops, str) else list(stops)
        return Ask(task, int(request.doc_id), repeat, ids, length, sampler, until)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Not supported: ConfigError."""
        raise ConfigError(refusal({str(request.task_name) for request in requests}))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Not supported: ConfigError."""
        raise ConfigError(refusal({str(request.task_name) for request in requests}))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as one prompt; ConfigError without a template."""
        own = getattr(self.model.tokenizer, "apply_chat_template", None)
        if callable(self.chat):
            if not add_generation_prompt:
                raise ConfigError("the task begins the answer itself, which a chat function cannot: use chat=tokenizer")
            return self.chat(chat_history)
        if own is None:
            raise ConfigError(
                f"the tokenizer of {self.model_name} has no chat template: give a function from messages to a prompt, "
                "such as dllm_reference_model.prompts:llada_chat"
            )
        continues = not add_generation_prompt
        text: str = own(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continues,
        )
        return text

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls the template in its caches of requests."""
        return f"{self.model_name}/{getattr(self.chat, '__qualname__', self.chat)}"

    def numbers(self, task: str) -> dict[str, float]:
        """NFE and TPF of a task: passes per answer; generated tokens of all answers / passes of all answers."""
        mine = [answer for (name, _), answers in self.answers.items() if name == task for answer in answers]
        if not mine:
            return {}
        passes, tokens = sum(one.nfe for one in mine), sum(one.generated for one in mine)
        return {"nfe": passes / len(mine), "tpf": tokens / passes, "generated_tokens": tokens / len(mine)}

    def get_model_info(self) -> dict[str, Any]:
        """What the harness adds to the configuration in its results."""
        return {
            "dllm_sdk": dllm_sdk.__version__,
            **{f"dllm_{name}": value for name, value in model_identity(self.model, self.model_name).items()},
            "scheduler": self.name,
            "scheduler_class": family(self.scheduler),
            "scheduler_fields": describe(self.scheduler),
            "cache": repr(self.policy),
            "dllm_numbers": {task: self.numbers(task) for task in dict.fromkeys(name for name, _ in self.answers)},
        }


def _batch_size(given: int | str | None) -> int:
    """As the harness may give it: a number, its digits, or that there is none."""
    if given is None or given == "auto":
        return 32
    size = int(given) if isinstance(given, str) and given.isdecimal() else given
    check_whole("batch_size", size, 1)
    return int(size)


def refusal(tasks: set[str]) -> str:
    """Why a task cannot run."""
    return (
        f"{', '.join(sorted(tasks))}: asks for likelihoods, which decoding does not give; tasks with output_type: "
        "generate_until work, such as gsm8k, minerva_math, ifeval, humaneval or mbpp"
    )


def _sampler(task: str, options: dict[str, Any]) -> Sampler:
    """From a task's generation arguments; ConfigError for one that would be ignored."""
    options = {name: value for name, value in options.items() if value is not None}  # how a task leaves one out
    greedy = not options.pop("do_sample", options.get("temperature", 0) > 0)
    if greedy:
        options = {name: value for name, value in options.items() if name not in _IGNORED_WHEN_GREEDY}
    temperature, top_p = options.pop("temperature", 0.0 if greedy else 1.0), options.pop("top_p", 1.0)
    if options:
        raise ConfigError(
            f"task {task} asks for {', '.join(f'{name}={value}' for name, value in options.items())}, which decoding "
            "here does not have; it has until, max_gen_toks, do_sample, temperature and top_p"
        )
    return Sampler(temperature=float(temperature), top_p=float(top_p))


def _until(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stop strings in it."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]


def _function(chat: str | Chat) -> Chat:
    if not isinstance(chat, str):
        return chat
    module, _, name = chat.partition(":")
    try:
        found: Chat = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"chat must be tokenizer or MODULE:FUNCTION, got {chat!r}: {error}") from error
    return found
