"""One training step of a pack: operation by operation, or as one compiled graph.

A step of a small network takes mostly the time in which Python and autograd start its operations.
Compiled, forward pass, backward pass and the optimiser's update are one graph of fused operations,
which starts none of them; sums are rounded in another order, so that the losses agree to rounding
and not bit for bit. Rates and decays are tensors that the graph reads, so that a new one compiles
nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lowrank.common.errors import InputError
from lowrank.training.steps import autocast

if TYPE_CHECKING:
    from lowrank.training.formulas import State
    from lowrank.training.optimizer import Optimizer
    from lowrank.training.pack import Pack
    from lowrank.training.steps import Loss

Step = Callable[[Tensor, Tensor], None]
"""(images, labels) → None: moves the pack's weights by one batch each."""


def by_autograd(pack: Pack, optimizer: Optimizer, loss: Loss, *, precision: str = "fp32") -> Step:
    """Returns a step that is taken operation by operation.

    Args:
        pack: The networks.
        optimizer: Of their stack.
        loss: Loss of single examples; each network minimises its mean over its batch.
        precision: ``bf16`` runs the forward pass under autocast.

    Returns:
        The step, which leaves the gradients in the stack's parameters.
    """

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(images.device.type, precision):
            values = pack.means(loss(pack(images), labels))
        pack.zero_grad(set_to_none=True)
        values.backward(torch.ones_like(values))
        optimizer.step()

    return step


def compiled(
    pack: Pack,
    optimizer: Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    precision: str = "fp32",
) -> Step:
    """Compiles the step for batches of one shape.

    A batch of another shape, such as a short last one, is left to autograd.

    Args:
        pack: As in `by_autograd`; put into training mode and otherwise unchanged.
        optimizer: As in `by_autograd`; one that does not step by torch's own kernel.
        loss: As in `by_autograd`.
        images: A batch of the shape to compile for, whatever it shows.
        labels: Its labels.
        precision: As in `by_autograd`.

    Returns:
        As `by_autograd` does, but leaves no gradients.

    Raises:
        InputError: If torch cannot compile here: most often there is no C++ compiler.
        OutOfMemoryError: If the device's memory is exhausted.
    """
    stack = pack.stack
    parameters, buffers = dict(stack.named_parameters()), dict(stack.named_buffers())
    names = (*parameters, *buffers)
    shapes = images.shape, labels.shape

    def step(
        weights: Sequence[Tensor],
        others: Sequence[Tensor],
        state: State,
        numbers: Mapping[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> tuple[()]:
        tensors = dict(zip(names, (*weights, *others), strict=True))
        with _form_of(pack), autocast(images.device.type, precision):
            values = pack.means(loss(pack.call(tensors, images), labels))
        found = torch.autograd.grad(values, weights, torch.ones_like(values))
        with torch.no_grad():
            optimizer.update(weights, found, state, numbers)
        return ()

    pack.train()
    weights, others = list(parameters.values()), list(buffers.values())
    kept = (optimizer.state, optimizer.numbers)
    arguments = [weight.detach() for weight in weights], others, *kept
    with explained():
        run = _compile(step, (weights, others, *kept, images, labels))
        with unchanged(pack, optimizer), torch.no_grad():
            run(*arguments, images, labels)
    of_other_shapes = by_autograd(pack, optimizer, loss, precision=precision)

    def compiled_or_not(images: Tensor, labels: Tensor) -> None:
        if (images.shape, labels.shape) != shapes:
            of_other_shapes(images, labels)
            return
        with torch.no_grad():
            run(*arguments, images, labels)

    return compiled_or_not


@contextlib.contextmanager
def unchanged(pack: Pack, optimizer: Optimizer) -> Iterator[None]:
    """Puts back what steps change.

    Args:
        pack: Stepped within.
        optimizer: Of its stack, one that does not step by torch's own kernel.
    """
    changing = [*pack.stack.parameters(), *pack.stack.buffers(), *optimizer.numbers.values()]
    changing += [tensor for kept in optimizer.state for tensor in kept.values()]
    with torch.no_grad():
        before = [tensor.clone() for tensor in changing]
    yield
    with torch.no_grad():
        for tensor, value in zip(changing, before, strict=True):
            tensor.copy_(value)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Says of what torch cannot compile or record here that it is bad input.

    Raises:
        InputError: If so, with torch's own reason.
        OutOfMemoryError: If the device's memory is exhausted.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:  # of Dynamo, Inductor, the compiler, CUDA graphs
        for wrapped in _chain(error):
            if isinstance(wrapped, torch.OutOfMemoryError):
                raise wrapped from None
        raise InputError(
            f"compile=True is not possible here ({_cause(error)}); compile=False works everywhere"
        ) from error


def _compile(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Returns a function of tensors, autograd within it included, as one compiled graph.

    Args:
        function: Of tensors.
        arguments: To trace it with.

    Returns:
        The compiled function.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function, tracing_mode="fake")(*arguments)
    # Guards would compare some hundred tensors in every step, whose shapes are known.
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    compiled: Callable[..., Any] = torch.compile(graph, fullgraph=True, options=options)
    return compiled


def _form_of(pack: Pack) -> contextlib.AbstractContextManager[object]:
    return _WeightFirst() if pack.is_stacked else contextlib.nullcontext()


class _WeightFirst(TorchFunctionMode):
    """Computes linear layers as (W xᵀ)ᵀ: batched, their gradients then have the layout of W."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and args[0].ndim == 2:
            inputs, weight, bias = args
            outputs = (weight @ inputs.mT).mT
            return outputs if bias is None else outputs + bias
        return func(*args, **(kwargs or {}))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, what it wraps, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    """Returns what torch says, without its wrappings."""
    *_, error = _chain(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
