"""The baselines of training: networks, data loading and loop as the literature's code has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lowrank.data import Split

WORKERS = 2


class Images(Dataset[tuple[Tensor, int]]):
    """Decoded images as torchvision's CIFAR10 keeps them: an array, a PIL image on access.

    Args:
        split: The images.
        mean: Per channel.
        std: Per channel.
    """

    def __init__(self, split: Split, mean: Sequence[float], std: Sequence[float]) -> None:
        from torchvision import transforms

        self.images: NDArray[np.uint8] = split.images.permute(0, 2, 3, 1).cpu().numpy().copy()
        self.labels: list[int] = split.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(images: Images, batch_size: int, device: str) -> DataLoader[tuple[Tensor, int]]:
    """Returns a DataLoader with two workers that stay, and pinned memory for a GPU.

    Args:
        images: What is loaded.
        batch_size: Images per batch.
        device: Where the batches go.

    Returns:
        The loader.
    """
    return DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )


def mlp_bn(depth: int, width: int, features: int, classes: int) -> nn.Module:
    """Returns MLP-BN-L-H: L × (Linear, BatchNorm, ReLU), then a linear classifier.

    Args:
        depth: L.
        width: H.
        features: Numbers in an image.
        classes: Number of logits.

    Returns:
        The network.
    """
    modules: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        modules += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU()]
        features = width
    return nn.Sequential(*modules, nn.Linear(features, classes))


def resnet18(channels: int, classes: int) -> nn.Module:
    """Returns torchvision's ResNet-18 with the usual stem for small images.

    Args:
        channels: Of an image.
        classes: Number of logits.

    Returns:
        The network.
    """
    from torchvision.models import resnet18 as build

    network: nn.Module = build(num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Gives a network the parameters and buffers of another of the same architecture.

    Args:
        source: Read.
        target: Changed.
    """
    with torch.no_grad():
        for members in (nn.Module.parameters, nn.Module.buffers):
            for of_source, of_target in zip(members(source), members(target), strict=True):
                of_target.copy_(of_source)


def sgd(network: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Returns plain SGD with torch's defaults.

    Args:
        network: What it optimises.
        lr: Learning rate.
        weight_decay: On all parameters.

    Returns:
        The optimiser.
    """
    return torch.optim.SGD(network.parameters(), lr=lr, weight_decay=weight_decay)


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any], device: str
) -> None:
    """Trains on every batch.

    Args:
        network: Trained.
        optimizer: Its optimiser.
        batches: Images and labels.
        device: Where the network is.
    """
    criterion = nn.CrossEntropyLoss()
    network.train()
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()


def normalised(split: Split, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns all images as float32, normalised per channel.

    Args:
        split: The images.
        mean: Per channel, of values in 0 … 1.
        std: Likewise.

    Returns:
        (n, C, H, W).
    """
    centre, scale = (torch.tensor(x).view(-1, 1, 1).to(split.images.device) for x in (mean, std))
    return (split.images.float() / 255 - centre) / scale


def in_memory(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Goes through images in memory in a new order.

    Args:
        images: (n, C, H, W), normalised.
        labels: (n,).
        batch_size: Images per batch.

    Yields:
        Images and labels.
    """
    order = torch.randperm(len(labels), device=labels.device)
    for chosen in order.split(batch_size):
        yield images[chosen], labels[chosen]
