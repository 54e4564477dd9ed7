"""Linear maps of one input, and how their weights lie in memory while a model decodes. Knows no transformer.

A decoding step multiplies few lanes with every weight, so reading the weights is most of it: fewer and wider products,
and a layout that is read in order, are what there is to gain.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_ABOVE = 2**17  # weights; with fewer, finding oneDNN's kernel takes longer than it saves


class Maps(Protocol):
    """Linear maps of one input, N lanes of it. No module: to call one takes as long as a small product."""

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """[N, D] -> the outputs of each map, [N, E]."""
        ...


def laid_out(*maps: nn.Linear) -> Maps:
    """Maps whose weights are laid out for decoding, where they are now; those that are more than that stay apart."""
    kinds = {(one.weight.dtype, one.weight.device, one.bias is None) if _plain(one) else None for one in maps}
    return Product(*maps) if len(kinds) == 1 and None not in kinds else Apart(*maps)


def _plain(one: nn.Module) -> bool:
    """Whether it is its weights alone: no other kind of module or of tensor, and nothing that is done around it."""
    if type(one) is not nn.Linear or type(one.weight) not in (Tensor, nn.Parameter):
        return False
    return not (hooked(one) or "forward" in vars(one))


def hooked(one: nn.Module) -> bool:
    """Whether something is done before or after its forward pass."""
    return bool(one._forward_hooks or one._forward_pre_hooks)


class Apart:
    """Each map by itself, as it is trained."""

    def __init__(self, *maps: nn.Module) -> None:
        self.maps = maps

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return [one(x) for one in self.maps]


class Product:
    """One product with the weights of all maps.

    The maps' weights become views of one tensor, so that nothing is held twice. Only a CPU holds them once more, as a
    product of few lanes reads them best (docs/benchmarks/speed.md): packed where they are many, column by column where
    they are few and float32.
    """

    def __init__(self, *maps: nn.Linear) -> None:
        self.widths = [one.out_features for one in maps]
        self.weight = _joined([one.weight for one in maps])  # [E, D]
        self.bias = None if maps[0].bias is None else _joined([one.bias for one in maps])  # [E]
        self.packed = _packable(self.weight)
        self.parts = [one.weight for one in maps] if self.packed else []  # for copies
        if self.packed:
            self.weight = _pack(self.weight)
        elif self.weight.device.type == "cpu" and self.weight.dtype == torch.float32:
            self.weight = self.weight.t().contiguous().t()
        else:
            if all(one.weight.is_shared() for one in maps):  # type: ignore[no-untyped-call]
                self.weight.share_memory_()  # type: ignore[no-untyped-call]  # and so its parts, in their place
            for one, part in zip(maps, self.weight.split_with_sizes(self.widths), strict=True):
                one.weight.data = part  # the same parameter, which an optimizer may hold

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        if not self.packed:
            found = F.linear(x, self.weight, self.bias)
        elif x.requires_grad:  # something before it is trained, and oneDNN's product gives no gradient
            found = F.linear(x, self.weight.to_dense(), self.bias)
        else:
            found = _multiply(x, self.weight, self.bias)
        return found.split_with_sizes(self.widths, dim=-1)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what is packed has no storage that could be copied, and is packed anew from the parameters."""
        return {**self.__dict__, "weight": None if self.packed else self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.packed:
            self.weight = _pack(_joined(self.parts))


@torch.inference_mode(False)  # so that parameters which become views of it can be trained again
@torch.no_grad()
def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0].detach()


def _packable(weight: Tensor) -> bool:
    """Whether oneDNN is here, computes in this type, and is worth its calls."""
    if weight.device.type != "cpu" or weight.numel() <= PACKED_ABOVE:
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    half = weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return half or weight.dtype == torch.float32


def _pack(weight: Tensor) -> Tensor:
    """[E, D] in the order in which oneDNN reads it: a tensor without strides, for `_multiply` alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


_onednn = partial(torch.ops.mkldnn._linear_pointwise.default, attr="none", scalars=[], algorithm="")


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of x [N, D] with a packed weight."""
    product = _packed_product if torch.compiler.is_compiling() else _onednn
    out: Tensor = product(x.to(weight.dtype), weight, bias)  # under autocast it may be another
    return out


# torch compiles its product with packed weights only where they are constants. As an operation of our own, which it
# takes as it is, compiled code has them as inputs: one code for every layer.
torch.library.define("dllm::packed_product", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.impl("dllm::packed_product", "MkldnnCPU", _onednn)
_packed_product = torch.ops.dllm.packed_product.default


@torch.library.register_fake("dllm::packed_product")  # type: ignore[untyped-decorator]
def _shape_of_packed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _teach_inductor()
    return x.new_empty(x.shape[0], weight.shape[0])


@cache
def _teach_inductor() -> None:
    """What it compiles is to call torch's operation at once: the way through ours costs up to 2 % of a block step."""
    from torch._inductor.lowering import fallback_handler, register_lowering  # slow to import

    handler: Any = fallback_handler
    call = partial(handler(_onednn.func, add_to_fallback_set=False), **_onednn.keywords)
    register_lowering(_packed_product, type_promotion_kind=None)(call)
