"""A CUDA device where there is no card: torch's fake tensors, which have shapes and no values.

Operators, autograd and tracing are torch's own. What a card would refuse is refused, also where
fake tensors alone would not: operands on two devices, a generator of another device. What the host
would wait for is noted. A copy to the CPU gives real ones, so that code behind it goes on.

Not shown: kernels, their numbers and errors, streams, CUDA graphs, memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowrank.measure import tensors as matrices
from lowrank.training import rounds

aten = torch.ops.aten
_MOVES = {aten._to_copy.default, aten.copy_.default}
_READS = {
    aten.item.default,
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
}
_SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}


class FakeCuda(TorchDispatchMode):
    """What is asked of the device.

    Attributes:
        waits: How often the host would have waited for it, by the operator that made it wait.
        operators: What ran on it.
        replays: How often a recorded graph ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operators: set[str] = set()
        self.replays = 0

    def graph(self, work: Callable[[], None]) -> Any:
        """Does what would be recorded, and returns what stands for the graph."""
        before = self.waits.total()
        work()
        assert self.waits.total() == before, f"a graph cannot wait: {self.waits}"
        return mock.Mock(replay=mock.Mock(side_effect=self._replayed))

    def _replayed(self) -> None:
        self.replays += 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if (
            torch.is_inference_mode_enabled() and func.namespace == "aten"
        ):  # autograd has not taken it apart
            with self:
                result = func.decompose(*args, **given)
            if result is not NotImplemented:
                return result
        leaves = tree_leaves((args, given))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        on_cuda = any(tensor.is_cuda for tensor in tensors)
        if not on_cuda and torch.device(given.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():
                return func(*args, **given)
        self.operators.add(str(func))
        if func in _MOVES:
            target = args[0].device if func is aten.copy_.default else given.get("device")
            source = args[1].device if func is aten.copy_.default else args[0].device
            if target is not None and torch.device(target).type != source.type:
                self.waits[f"copy from {source.type} to {torch.device(target).type}"] += 1
                if func is aten._to_copy.default and torch.device(target).type == "cpu":
                    with unset_fake_temporarily():
                        return torch.ones(args[0].shape, dtype=given.get("dtype", args[0].dtype))
            return func(*args, **given)
        if func in _READS:
            self.waits[str(func)] += 1
            return False if func is aten.equal.default else tensors[0].dtype.is_floating_point + 0
        if func in _SIZED_BY_VALUES:
            self.waits[str(func)] += 1
        # A CPU tensor of no dimension is passed to a kernel as a number.
        kinds = {t.device.type for t in tensors if t.ndim or t.is_cuda}
        if len(kinds) > 1:
            raise RuntimeError(f"{func}: operands on {' and '.join(sorted(kinds))}")
        if func.name().startswith("aten::_fused_"):  # of optimisers, in place; no shapes to infer
            return None
        device = given.get("device") or (tensors[0].device if tensors else "cpu")
        for generator in (leaf for leaf in leaves if isinstance(leaf, torch.Generator)):
            if generator.device.type != torch.device(device).type:
                raise RuntimeError(f"{func}: a generator of {generator.device} for {device}")
        return func(*args, **given)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Makes torch act as if there were one CUDA device, for tensors made on it.

    Yields:
        What was asked of it.
    """
    device, tensors = FakeCuda(), FakeTensorMode(allow_non_fake_inputs=True)
    tensors.cache_enabled = False  # it mistakes those of the CPU for those of the device
    with (
        torch.random.fork_rng(()),
        tensors,
        device,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(tensors, "__deepcopy__", lambda _: tensors, raising=False)
        patch.setattr(FakeTensorMode, "avoid_device_init", True)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torch.cuda, "manual_seed_all", lambda _: None)
        patch.setattr(torch.cuda, "set_device", lambda _: None)
        patch.setattr(torch.cuda, "synchronize", lambda _: device.waits.update(["synchronize"]))
        # torch's engine asks the driver about the device; what it calls are these same nodes.
        patch.setattr(torch.autograd, "grad", gradients)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(nn.Module, "to", _moved)
        patch.setattr(torch, "compile", lambda function, **_: function)
        patch.setattr(rounds, "record", lambda work, _: device.graph(work))
        patch.setattr(torch.cuda, "Event", mock.MagicMock)
        patch.setattr(matrices, "unusable", lambda _: "")  # refuses tensors without values
        yield device


def _moved(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Moves a module as ``Module.to`` does, which cannot swap fake tensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return module


def _backward(tensor: Tensor, gradient: Tensor | None = None) -> None:
    leaves: dict[Any, Tensor] = {}
    _run(tensor, gradient, lambda node, of_it: leaves.__setitem__(node, of_it))
    for node, found in leaves.items():
        old = node.variable.grad
        node.variable.grad = found if old is None else old + found


def gradients(
    output: Tensor,
    inputs: Sequence[Tensor],
    gradient: Tensor | None = None,
    *,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    leaves: dict[Any, Tensor] = {}
    _run(output, gradient, lambda node, of_it: leaves.__setitem__(id(node.variable), of_it))
    found = tuple(leaves.get(id(leaf)) for leaf in inputs)
    assert allow_unused or None not in {type(of_it) if of_it is None else 0 for of_it in found}
    return found


def _run(output: Tensor, gradient: Tensor | None, leaf: Callable[[Any, Tensor], None]) -> None:
    """Calls the nodes of a graph backwards, checking each gradient as torch's engine does."""
    root: Any = output.grad_fn
    waiting: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    start = torch.ones_like(output) if gradient is None else gradient
    gathered: dict[Any, list[Any]] = {root: [None] * len(root._input_metadata)}
    gathered[root][output.output_nr] = start
    ready = [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            own = gathered.pop(node)
            if type(node).__name__ == "AccumulateGrad":
                leaf(node, own[0])
                continue
            results = node(*own)
            results = results if isinstance(results, tuple) else (results,)
            for (following, place), result in zip(node.next_functions, results, strict=True):
                if following is None:
                    continue
                expected = following._input_metadata
                sums = gathered.setdefault(following, [None] * len(expected))
                if result is not None:
                    meta = expected[place]
                    if result.device != meta.device:
                        raise RuntimeError(f"{node}: gradient on {result.device}")
                    if tuple(result.shape) != tuple(meta.shape):
                        result = result.sum_to_size(*meta.shape)
                    result = result.to(meta.dtype)
                    sums[place] = result if sums[place] is None else sums[place] + result
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)
