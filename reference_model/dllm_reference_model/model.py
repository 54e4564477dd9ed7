"""The transformer: an embedding, layers, a norm and a head; the same for tiny, LLaDA and Dream.

It predicts every position at once, from tokens and explicit positions, with or without a key/value store. It knows no
decoding, no cache policy and no checkpoint: which lanes are fed and which keys are visible is the caller's business.

Shapes: B rows, Q fed lanes, W lanes that are asked for, S key slots, D width, V vocabulary.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_reference_model.config import Config
from dllm_reference_model.layer import Asked, Layer, pick, run_layer, turn_by
from dllm_reference_model.products import Apart, Maps, hooked, laid_out
from dllm_reference_model.store import Slots, Store


class Codec(Protocol):
    """What a model's tokenizer must be able to do."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def _code(module: nn.Module) -> Hashable:
    """What a module runs besides the code of its children: its type, and how it is laid out."""
    return type(module), *map(type, (isinstance(module, Layer) and module.laid_out) or ())


class Transformer(nn.Module):
    """A masked-diffusion language model. `forward` gives hidden states; `head` turns those that matter into logits."""

    def __init__(self, config: Config, tokenizer: Codec | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.unembed = nn.Linear(config.width, config.vocab_size, bias=False)
        self.to_logits: Maps | None = None  # `unembed`, laid out for decoding
        self.frozen = False  # whether weights are laid out for decoding
        self.mask_id: int = config.mask_id
        self.eos_ids: tuple[int, ...] = config.eos_ids
        self.vocab_size: int = config.vocab_size
        self.shift: int = config.shift
        self.block_causal: bool = config.block_causal
        self.max_length: int = config.max_length
        self.register_load_state_dict_post_hook(Transformer._refreeze)  # type: ignore[no-untyped-call]

    def freeze(self) -> Self:
        """For decoding, until it is trained: no gradients, and weights laid out for few lanes (`Product`).

        Names and values of the parameters stay as they are. What is written into them later, and a module that takes
        the place of a linear map or a hook on one, may have no effect before `freeze` is called again.
        """
        self.eval().requires_grad_(False)
        for layer in self._layers():
            layer.laid_out = layer.parts(laid_out)
        if not self.config.tied:
            self.to_logits = laid_out(self.unembed)
        self.frozen = True
        return self

    def _thaw(self) -> None:
        for layer in self._layers():
            layer.laid_out = None
        self.to_logits, self.frozen = None, False

    def _thaw_if_trained(self) -> None:
        if self.frozen and torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters()):
            self._thaw()

    def _layers(self) -> Iterator[Layer]:
        return (module for module in self.modules() if isinstance(module, Layer))

    def train(self, mode: bool = True) -> Self:
        """As torch's; what is trained is no longer frozen."""
        if mode:
            self._thaw()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        """What `to` and its like call: a frozen model stays frozen."""
        frozen = self.frozen
        self._thaw()  # what is laid out is not moved, but made anew
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self.freeze() if frozen else self

    def _refreeze(self, *_: object) -> None:
        if self.frozen:
            self.freeze()

    @property
    def code(self) -> Hashable:
        """Models of equal `code` run the same code: what is compiled for one serves the others.

        None where modules have hooks, which compiled code may pass over: such a model runs as it is written.
        """
        if any(map(hooked, self.modules())):
            return None
        # A frozen set keeps its hash, which is asked for at every step.
        return self.config, self.dtype, type(self.to_logits), frozenset(enumerate(map(_code, self.modules())))

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        store: Store | None = None,
        key_mask: Tensor | None = None,
        lanes: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, Q, D] of the fed lanes, after the last norm; of some of them with `lanes` (`forward_at`).

        tokens, positions: int64 [B, Q]. Without a store the keys are the Q fed lanes; with one, the lanes' keys and
        values are written to its slots `positions` and every lane attends to its S slots. key_mask: bool
        [B, Q or 1, S], True where a key is visible; None: every key is, and the fastest kernels can be used.
        """
        self._thaw_if_trained()
        x = self.embed(tokens).flatten(0, 1)
        positions = positions.expand_as(tokens)
        turn = turn_by(positions, self.config, x.dtype)
        asked = self._asked(key_mask, None)
        row = torch.arange(len(positions), device=positions.device)[:, None]
        for index, layer in enumerate(self.layers):
            slots = None if store is None else Slots(store.keys[index], store.values[index], row, positions)
            if lanes is not None and index + 1 == len(self.layers):
                asked = self._asked(key_mask, lanes)
            x = run_layer(layer, x, turn, slots, asked)
        out: Tensor = self.norm(x)
        return out.view(*(tokens if lanes is None else lanes).shape, self.config.width)

    def forward_at(
        self, tokens: Tensor, positions: Tensor, store: Store | None, key_mask: Tensor | None, lanes: Tensor
    ) -> Tensor:
        """Hidden states [B, W, D] of some of the fed lanes, int64 [B, W]: else as `forward`.

        What the last layer makes of the other lanes nobody would read: its attention and its MLP leave them out.
        """
        return self.forward(tokens, positions, store, key_mask, lanes)

    def _asked(self, key_mask: Tensor | None, lanes: Tensor | None) -> Asked:
        mask = None if key_mask is None else key_mask[:, None]
        if key_mask is not None and key_mask.shape[1] > 1:
            mask = pick(key_mask, lanes)[:, None].repeat(1, 1, self.config.heads // self.config.kv_heads, 1)
        return Asked(lanes, mask)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [.., V] of hidden states [.., D]."""
        if self.config.tied:
            return F.linear(hidden, self.embed.weight)
        self._thaw_if_trained()
        (logits,) = (self.to_logits or Apart(self.unembed))(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], logits.shape[-1])

    def new_store(self, rows: int, length: int) -> Store:
        """An empty store for `rows` rows of `length` positions; lanes at position `length` are padding."""
        shape = (rows, length + 1, self.config.kv_heads, self.config.head_width)
        return Store.empty(len(self.layers), shape, like=self.embed.weight)
