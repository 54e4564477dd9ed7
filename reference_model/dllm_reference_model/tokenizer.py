"""A byte-pair tokenizer for the language of the tasks: 420 tokens, built from their generators, kept as tokenizer.json.

A word carries at most one space before it, a number is cut into pairs of digits, every sign and line break stands
alone. It knows printable ASCII and line breaks, nothing else, and no model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from dllm_reference_model import tasks

SPECIALS = ("[MASK]", "[EOS]", "[PAD]", "[BOS]")  # the last two stand in the vocabulary, and nowhere else
ALPHABET = ["\n", *map(chr, range(32, 127))]
# Numbers 0..99 become one token each, so that a small model needs one position to copy or compute one.
_PIECES = r" ?[A-Za-z]+|[0-9]{1,2}|#### ?|[\s\S]"


class Tokenizer:
    """Text to token ids and back. The special tokens come from no text and leave none: `decode` skips them."""

    def __init__(self, fast: FastTokenizer) -> None:
        ids = [_id_of(fast, token) for token in SPECIALS]
        self.mask_id, self.eos_id = ids[:2]
        self.vocab_size: int = fast.get_vocab_size()
        self._fast = fast
        self._fast.encode_special_tokens = True  # a prompt that says [MASK] means the six characters
        self._special = frozenset(ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; a ValueError names the first character that no token stands for."""
        for character in text:
            if character != "\n" and not " " <= character <= "~":
                raise ValueError(f"the tokenizer knows printable ASCII and line breaks only, got {character!r}")
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens skipped: `decode(encode(text)) == text`."""
        text: str = self._fast.decode([i for i in map(int, ids) if i not in self._special], skip_special_tokens=False)
        return text

    def save(self, path: Path) -> None:
        path.write_text(self._fast.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json; ValueError if it is none."""
        text = path.read_text(encoding="utf-8")
        try:
            fast = FastTokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for any fault in the file
            raise ValueError(f"not a tokenizer.json ({error})") from None
        return cls(fast)

    @classmethod
    def build(cls, *, vocab_size: int = 448, samples: int = 2000, seed: int = 0) -> "Tokenizer":
        """Learn the merges from samples of every task at every level: the same each time."""
        fast = FastTokenizer(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
        fast.decoder = decoders.Fuse()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIALS),
            initial_alphabet=ALPHABET,
            show_progress=False,
        )
        fast.train_from_iterator(_corpus(samples, seed), trainer)
        return cls(fast)


def _id_of(fast: FastTokenizer, token: str) -> int:
    found: int | None = fast.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no special token {token}, which is needed")
    return found


def _corpus(samples: int, seed: int) -> Iterator[str]:
    for task in tasks.ALL:
        for level in (1, 2, 3):
            rng = Random(f"tokenizer/{task.name}/{level}/{seed}")
            harder = type(task)(level)
            for _ in range(samples):
                yield "".join(harder.sample(rng))
    numbers = " ".join(map(str, range(10, 100)))
    yield from [numbers] * (2 * samples)  # so that every pair of digits is merged before a rare word is
