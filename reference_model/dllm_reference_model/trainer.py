"""What a training run is made of: a recipe, and a trainer whose whole state is saved and restored. It runs no loop."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dllm_reference_model import checkpoint
from dllm_reference_model.config import Config
from dllm_reference_model.data import Batch, Mix
from dllm_reference_model.model import Transformer
from dllm_reference_model.muon import Muon
from dllm_reference_model.peers import Peers
from dllm_reference_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    steps: int = 14_000
    seed: int = 0
    processes: int = 2  # of one thread each; they round differently from one process
    start: str = ""  # checkpoint folder that gives the initial weights; "": random ones
    width: int = 128
    layers: int = 6
    heads: int = 4
    mlp_width: int = 344  # 8 / 3 of the width
    mix: Mix = field(
        default_factory=lambda: Mix({"expr": 0.18, "record": 0.22, "sort": 0.14, "story": 0.20, "trace": 0.26})
    )
    matrix_lr: float = 0.03  # Muon, with qk-norm; AdamW at 3e-3 was 1.42 against 1.11 in validation loss at 1M tokens
    vector_lr: float = 3e-3  # AdamW, for the embedding and the norms
    tokenizer_samples: int = 2000  # per task and level
    warmup: float = 0.02  # share of the steps
    decay: float = 0.65  # share of the steps, linear to 0 at the end
    average: float = 0.999  # decay per step of the running mean of the weights, which is what is evaluated and shipped
    block_causal: bool = False

    def learning_rate(self, step: int) -> float:
        """Factor of both rates at a step, counted from 0."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rise, fall)


DRY = Recipe(
    steps=12,
    tokenizer_samples=20,
    width=32,
    layers=2,
    heads=2,
    mlp_width=64,
    mix=Mix({"expr": 0.5, "sort": 0.5}, tokens_per_step=512, parts=2),
    average=0.5,
)


class Trainer:
    """A model, its optimisers and counters: all that a state file holds."""

    def __init__(self, recipe: Recipe, peers: Peers) -> None:
        self.recipe, self.peers = recipe, peers
        self.tokenizer = Tokenizer.build(samples=recipe.tokenizer_samples)
        self.model = new_model(recipe, self.tokenizer)
        mean = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=mean)
        embedding = self.model.embed.weight
        matrices = [p for p in self.model.parameters() if p.ndim == 2 and p is not embedding]
        vectors = [p for p in self.model.parameters() if p.ndim == 1 or p is embedding]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(vectors, lr=recipe.vector_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.next = (0, 0)  # the data counter of the next step
        self.curve: list[dict[str, Any]] = []  # what was evaluated on the way

    @property
    def averaged(self) -> Transformer:
        """The model with the running mean of its weights."""
        return cast(Transformer, self.average.module)

    def update(self, parts: list[Batch]) -> Tensor:
        """One optimiser step; the loss [] before it. Each peer takes its share of the parts."""
        rate = self.recipe.learning_rate(self.step)
        self.model.train()
        total = torch.zeros(())
        for part in parts[self.peers.rank :: self.peers.count]:
            loss = objective(self.model, part) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        loss = self._add_up(total)
        self.muon.step(self.recipe.matrix_lr * rate, self.peers)
        self.adam.param_groups[0]["lr"] = self.recipe.vector_lr * rate
        self.adam.step()
        self.adam.zero_grad()
        self.average.update_parameters(self.model)
        self.step += 1
        self.tokens += sum(part.tokens.numel() for part in parts)
        return loss

    def _add_up(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over the peers, in one message."""
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        message = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
        self.peers.sum(message)
        parts = torch.split(message[1:], [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return message[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; the values are shared, not copied."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        found |= {f"muon.{index}": value for index, value in enumerate(self.muon.velocity)}
        for index, state in self.adam.state_dict()["state"].items():
            found |= {f"adam.{index}.{name}": value for name, value in state.items()}
        return found

    def save(self, path: Path) -> None:
        """Replace the state file in one step."""
        counters = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "next": self.next}
        metadata = {"recipe": _json(self.recipe), "counters": json.dumps(counters), "curve": json.dumps(self.curve)}
        with checkpoint.replacing(path) as draft:
            save_file({name: value.contiguous() for name, value in self.tensors().items()}, draft, metadata)

    def restore(self, path: Path) -> None:
        """Go on from a state file of the same recipe."""
        metadata, found = read_state(path, self.recipe)
        counters = json.loads(metadata["counters"])
        self.step, self.tokens, self.seconds = counters["step"], counters["tokens"], counters["seconds"]
        self.next, self.curve = tuple(counters["next"]), json.loads(metadata["curve"])
        for part, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({n.removeprefix(part): v for n, v in found.items() if n.startswith(part)})
        for index, velocity in enumerate(self.muon.velocity):
            velocity.copy_(found[f"muon.{index}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in found.items():
            if name.startswith("adam."):
                _, index_text, key = name.split(".")
                state.setdefault(int(index_text), {})[key] = value
        self.adam.load_state_dict({**self.adam.state_dict(), "state": state})


def read_state(path: Path, recipe: Recipe) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a state file; CheckpointError if it is torn or belongs to another recipe."""
    with checkpoint.opened(path) as file:
        metadata = file.metadata() or {}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    there, here = json.loads(metadata.get("recipe", "{}")), json.loads(_json(recipe))
    fields = [name for name in here | there if there.get(name) != here.get(name)]
    other = [f"{name} {there.get(name)}, not {here.get(name)}" for name in fields]
    if other:
        raise checkpoint.CheckpointError(
            f"{path} belongs to another recipe, of {'; '.join(other)}: give another folder, or that recipe"
        )
    return metadata, found


def new_model(recipe: Recipe, tokenizer: Tokenizer) -> Transformer:
    """A model with seeded initial weights: normal by fan-in, layers that add nothing yet."""
    config = Config(
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        eos_ids=(tokenizer.eos_id,),
        max_length=512,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
        kv_heads=recipe.heads,
        mlp_width=recipe.mlp_width,
        rope_base=100.0,  # positions are few: with 500,000 most channels would hardly turn
        qk_norm=True,
        attention_scale=12 * recipe.heads / recipe.width,
        tied=True,
        block_causal=recipe.block_causal,
    )
    model = Transformer(config, tokenizer)
    if recipe.start:
        found = checkpoint.load(recipe.start, dtype=torch.float32)
        if dataclasses.replace(found.config, block_causal=recipe.block_causal) != config:
            raise checkpoint.CheckpointError(f"{recipe.start} holds {found.config}, expected {config}")
        model.load_state_dict(found.state_dict())
        return model
    noise = torch.Generator().manual_seed(Random(f"weights/{recipe.seed}").getrandbits(63))
    for name, weight in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            torch.nn.init.zeros_(weight)
        elif weight.ndim == 2:
            std = 0.05 if name.startswith("embed") else 0.5 * weight.shape[1] ** -0.5
            torch.nn.init.normal_(weight, std=std, generator=noise)
    return model


def objective(model: Transformer, batch: Batch) -> Tensor:
    """Weighted cross-entropy on the masked positions; the head runs on those alone."""
    hidden = model(batch.tokens, batch.positions, None, batch.visible)
    masked = batch.weight > 0
    losses = F.cross_entropy(model.head(hidden[masked]), batch.target[masked], reduction="none")
    return (losses * batch.weight[masked]).sum()


def _json(recipe: Recipe) -> str:
    return json.dumps(dataclasses.asdict(recipe), sort_keys=True)
