"""Losses and gradients of one training step: by autograd, or as one compiled graph.

A step of a small network takes mostly the time in which Python and autograd start its operations.
Compiled, forward and backward pass are one graph of fused operations, which starts none of them;
sums are rounded in another order, so that the losses agree to rounding and not bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lowrank.common.errors import InputError
from lowrank.training.replicas import Replicas
from lowrank.training.steps import autocast

if TYPE_CHECKING:
    from lowrank.training.steps import Gradients, Loss


def by_autograd(model: nn.Module, loss: Loss, *, precision: str = "fp32") -> Gradients:
    """Returns what computes gradients operation by operation.

    Args:
        model: One network, or `lowrank.training.replicas.Replicas`.
        loss: Loss of single examples; each network minimises its mean over its batch.
        precision: ``bf16`` runs the forward pass under autocast.

    Returns:
        A function of images and labels that leaves the gradients in the model's parameters.
    """

    def differentiate(images: Tensor, labels: Tensor) -> None:
        with autocast(images.device.type, precision):
            values = loss(model(images), labels).mean(dim=-1)
        model.zero_grad(set_to_none=True)
        values.backward(torch.ones_like(values))

    return differentiate


def compiled(
    model: nn.Module, loss: Loss, images: Tensor, labels: Tensor, *, precision: str = "fp32"
) -> Gradients:
    """Compiles forward and backward pass for batches of one shape.

    A batch of another shape, such as a short last one, is left to autograd.

    Args:
        model: As in `by_autograd`; put into training mode and otherwise unchanged.
        loss: As in `by_autograd`.
        images: A batch of the shape to compile for, whatever it shows.
        labels: Its labels.
        precision: As in `by_autograd`.

    Returns:
        As `by_autograd` does.

    Raises:
        InputError: If torch cannot compile here: most often there is no C++ compiler.
        OutOfMemoryError: If the device's memory is exhausted.
    """
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    names = (*parameters, *buffers)
    shapes = images.shape, labels.shape

    def differentiate(
        weights: Sequence[Tensor], others: Sequence[Tensor], images: Tensor, labels: Tensor
    ) -> Sequence[Tensor]:
        state = dict(zip(names, (*weights, *others), strict=True))
        with _form_of(model), autocast(images.device.type, precision):
            values = loss(functional_call(model, state, (images,)), labels).mean(dim=-1)
        found = torch.autograd.grad(values, weights, torch.ones_like(values))
        return [_laid_out(*pair) for pair in zip(found, weights, strict=True)]

    model.train()
    inputs = list(parameters.values()), list(buffers.values())
    arguments = [tensor.detach() for tensor in inputs[0]], inputs[1]
    before = [buffer.clone() for buffer in inputs[1]]
    try:
        run = _compile(differentiate, (*inputs, images, labels))
        with torch.no_grad():
            run(*arguments, images, labels)  # compiles, and moves BatchNorm's statistics
            for buffer, value in zip(inputs[1], before, strict=True):
                buffer.copy_(value)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError) as error:  # of Dynamo, Inductor, the compiler
        raise InputError(
            f"compile=True is not possible here ({_cause(error)}); compile=False works everywhere"
        ) from error
    of_other_shapes = by_autograd(model, loss, precision=precision)

    def compiled_or_not(images: Tensor, labels: Tensor) -> None:
        if (images.shape, labels.shape) != shapes:
            of_other_shapes(images, labels)
            return
        with torch.no_grad():
            gradients = run(*arguments, images, labels)
        for parameter, gradient in zip(inputs[0], gradients, strict=True):
            parameter.grad = gradient

    return compiled_or_not


def _compile(
    function: Callable[..., Sequence[Tensor]], arguments: tuple[Any, ...]
) -> Callable[..., Sequence[Tensor]]:
    """Returns a function of tensors, autograd within it included, as one compiled graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function, tracing_mode="fake")(*arguments)
    # Guards would compare some hundred tensors in every step, whose shapes are known.
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    weights, others, images, _ = arguments
    if images.is_cuda:
        options["triton.cudagraphs"] = True
        for tensor in (*weights, *others):  # a CUDA graph need not copy what stays in its place
            torch._dynamo.mark_static_address(tensor)
    compiled: Callable[..., Sequence[Tensor]] = torch.compile(
        graph, fullgraph=True, options=options
    )
    return compiled


def _laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """Returns the gradient with the strides of its weight, which fused optimisers rely on."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_strided(
        weight.shape, weight.stride(), dtype=gradient.dtype, device=gradient.device
    ).copy_(gradient)


def _form_of(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    return _WeightFirst() if isinstance(model, Replicas) else contextlib.nullcontext()


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


def _cause(error: BaseException) -> str:
    """Returns what torch says, without its wrappings."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
