"""The device that this machine lacks: what works there, what fails as on a GPU, and what crosses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dllm_sdk.compiling import host_read
from dllm_sdk.elsewhere import ELSEWHERE, DeviceError, Uncrossed, elsewhere, fetch, send
from dllm_sdk.rules import one_of

Act = Callable[[Tensor], Any]


def there() -> Tensor:
    return send(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def fill(x: Tensor, index: Any, value: Any) -> Tensor:
    x[index] = value
    return x


STAY: dict[str, Act] = {
    "arithmetic": lambda x: x * 2 + torch.tensor(1.0),  # a single number goes along
    "of a single number": lambda x: x.sum().sqrt(),
    "in place": lambda x: x.add_(1),
    "what is so already, and written": lambda x: (x.contiguous().float().add_(1), x)[1],
    "in place, of another shape": lambda x: x.unsqueeze_(0).sum((0, 1)),
    "in place, the other way round": lambda x: x.t_(),
    "of the shape of another": lambda x: torch.arange(2).expand_as(x).tolist(),
    "a mask and a place": lambda x: fill(x, (x[0] > 1, 0), 0.0),
    "a view is written": lambda x: (x[0].fill_(7), x)[1],
    "made there": lambda x: x + torch.arange(2, device=x.device) + torch.full(size=(2,), fill_value=3, device=x.device),
    "made alike": lambda x: torch.zeros_like(x) + x.new_ones(2),
    "made on the CPU": lambda x: x.new_tensor([1.0], device="cpu"),
    "where": lambda x: torch.where(x > 2, 0.0, x),
    "masks": lambda x: fill(x, x > 2, 0.0),
    "indices": lambda x: x[torch.arange(2, device=x.device).flip(0)],
    "sorting": lambda x: x.topk(1).values + x.sort(stable=True).values,
    "products": lambda x: torch.einsum("ab,bc->ac", x, x).softmax(-1),
    "copied": lambda x: deepcopy(x).clone(),
    "compiled": lambda x: torch.compile(lambda y: y + 1, backend="eager")(x),
}
CROSS: dict[str, Act] = {
    "to the CPU": lambda x: x.cpu(),
    "a number": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x.any()),
    "numbers": lambda x: x.tolist(),
    "a text": lambda x: f"{x.sum():.1f}",
    "places": lambda x: x.nonzero(),
    "what a mask selects": lambda x: x[x > 2],
    "what a mask selects of another dimension": lambda x: x[:, x[0] > 1],
    "what is written by a mask": lambda x: fill(x, x > 2, x.new_zeros(2)),
    "how many there are": lambda x: x.unique(),
    "from the CPU": lambda x: torch.ones(2).to(x.device),
    "to where another is": lambda x: torch.ones(2).to(x),
    "from where another is": lambda x: x.to(torch.ones(2)),
    "to a device and a type": lambda x: torch.ones(2).to(x.device, torch.float64),
    "from Python": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "from Python, alike": lambda x: x.new_tensor([1.0, 2.0]),
    "from Python and from there": lambda x: torch.tensor([x[0, 0], 1.0], device=x.device),
    "to the type of another": lambda x: torch.arange(2).type_as(x),
    "to numpy": lambda x: x.numpy(force=True).tolist(),
    "what is filled by a number there": lambda x: fill(x, x > 2, x.sum()),
    "what is filled by a mask and places": lambda x: fill(x, (x[0] > 1, x[0, :1].long()), 0.0),
    "a range of indices": lambda x: x[range(2)],
    "written from the CPU": lambda x: fill(x, 0, torch.ones(2)),
    "a list of indices": lambda x: x[[1, 0]],
    "lists of indices": lambda x: x[[1, 0], [0, 1]],
    "written at indices of the CPU": lambda x: fill(x, torch.tensor([1, 0]), x.new_zeros(2)),
    "indices of the CPU": lambda x: x[torch.tensor([1, 0])],
}
HOME = ("to the CPU", "made on the CPU", "from where another is")
FAIL: dict[str, Act] = {
    "operands": lambda x: x + torch.ones(2),
    "a number there": lambda x: torch.ones(2) * x.sum(),
    "an index": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "parts": lambda x: torch.cat([x, torch.zeros(2, 2)]),
    "values": lambda x: fill(x, torch.tensor([True, False], device=x.device), torch.ones(2)),
    "the CPU by its indices": lambda x: torch.ones(2, 2)[x.long() % 2],
    "numpy": lambda x: x.numpy(),
    "numpy, from there": lambda x: np.asarray(x),
}


@pytest.mark.parametrize("name", STAY | CROSS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_works_gives_the_values_of_the_cpu(name: str, mode: Any) -> None:
    act = (STAY | CROSS)[name]
    with mode():
        wanted = act(fetch(there()))
        with elsewhere():
            found = act(there())
    if isinstance(wanted, Tensor):
        assert fetch(found).equal(wanted) and found.shape == wanted.shape
        assert found.device == (torch.device("cpu") if name in HOME else ELSEWHERE)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", FAIL)
def test_what_takes_tensors_of_two_devices_fails(name: str) -> None:
    with elsewhere(), pytest.raises(DeviceError):
        FAIL[name](there())


@pytest.mark.parametrize("name", STAY | CROSS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_crosses_can_be_forbidden(name: str, mode: Any) -> None:
    forbidden = (
        pytest.raises(DeviceError, match="copies between devices, or reads a value") if name in CROSS else nullcontext()
    )
    with mode(), elsewhere(), Uncrossed(), forbidden:
        (STAY | CROSS)[name](there())


@pytest.mark.parametrize("name", STAY | CROSS)
def test_nothing_crosses_on_the_cpu(name: str) -> None:
    with Uncrossed():
        (STAY | CROSS)[name](fetch(there()))


def test_a_copy_is_one() -> None:
    with torch.inference_mode(), elsewhere():
        x, y = there(), torch.ones(2)
        x.cpu().zero_()
        y.to(ELSEWHERE).zero_()
        assert fetch(x).all() and y.all()


def test_what_is_constant_in_compiled_code_may_cross() -> None:
    ids = tuple(range(20))
    with elsewhere(), Uncrossed():
        assert fetch(one_of(torch.full((1, 2), 19, device=ELSEWHERE), ids)).tolist() == [[True, True]]


def test_tensors_that_are_elsewhere_are_of_no_use_outside() -> None:
    with pytest.raises(DeviceError, match="outside of `elsewhere"):
        there() + 1


def test_a_copy_to_the_device_is_found_on_tensors_without_values() -> None:
    """As `compile` and `graph` look for it, on the device of the model."""
    table = torch.ones(3)

    def uploads(x: Tensor) -> Tensor:
        return x + table.to(x.device)  # the line

    with torch._functorch.config.patch(fake_tensor_allow_meta=True):
        found = str(host_read(uploads, torch.ones(3, device="meta")))
    assert "# the line copies between the device and the CPU" in found and __file__ in found
    assert host_read(uploads, torch.ones(3)) is None
