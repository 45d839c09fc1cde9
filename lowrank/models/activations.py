"""Activation functions by their name in the configuration."""

from __future__ import annotations

from torch import nn


def activation(name: str) -> nn.Module:
    """Returns a new activation module.

    Args:
        name: ``relu``, or ``leaky_relu`` with the slope 0.01 of the paper's Figs 1-2.

    Returns:
        The module.

    Example:
        >>> activation("leaky_relu")
        LeakyReLU(negative_slope=0.01)
    """
    activations: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
    return activations[name]()
