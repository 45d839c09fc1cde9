"""The table of data sets: a new one is an entry, and a file in ``lowrank/data/`` that reads it."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """What the configuration and `lowrank.data` need to know of a data set.

    Attributes:
        file: The module of ``lowrank.data`` whose ``load`` reads it.
        mean: Per channel, of pixel values scaled to 0 … 1; empty where the images decide.
        std: Per channel, likewise.
        train_size: Training examples; None where their number is not known beforehand.
        native: Height and width of its images; None where they are not known beforehand.
        padded: Whether another size is reached by zero-padding, which cannot shrink an image.
        image_size: Height and width where none is asked for; None for native.
        convolved_size: Likewise, for a convolutional model.
        classes: Their names, where its files do not tell them.
        torchvision: The class of ``torchvision.datasets`` that fetches it; empty without one.
        in_data_dir: Whether its files lie in ``data_dir``.
        text: Whether it holds text, every byte of which is told from those before; else images.
    """

    file: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    train_size: int | None = None
    native: int | None = None
    padded: bool = False
    image_size: int | None = None
    convolved_size: int | None = None
    classes: tuple[str, ...] = ()
    torchvision: str = ""
    in_data_dir: bool = True
    text: bool = False

    @property
    def example(self) -> str:
        """What one of its examples is called."""
        return "window" if self.text else "image"


_DIGITS = tuple("0123456789")
_BYTES = tuple(f"byte {value}" for value in range(256))
# The paper's code normalises CIFAR-10 by CIFAR-100's constants; those of STL-10 are its training
# set's, as commonly used.
_CIFAR = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
_STL = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)

DATASETS = {
    "digits": Source(  # the constants of the 1,440 × 64 training pixels, bytes / 255
        "digits", (0.2876,), (0.3541,), 1440, 8, padded=True, convolved_size=32, classes=_DIGITS,
        in_data_dir=False,
    ),
    "mnist": Source(
        "vision", (0.1307,), (0.3081,), 60_000, 28, padded=True, image_size=32,
        torchvision="MNIST",
    ),
    "fashion_mnist": Source(
        "vision", (0.1307,), (0.3081,), 60_000, 28, padded=True, image_size=32,
        torchvision="FashionMNIST",
    ),
    "cifar10": Source("vision", *_CIFAR, 50_000, 32, torchvision="CIFAR10"),
    "cifar100": Source("vision", *_CIFAR, 50_000, 32, torchvision="CIFAR100"),
    "svhn": Source(
        "vision", (0.5,) * 3, (0.5,) * 3, 73_257, 32, classes=_DIGITS, torchvision="SVHN"
    ),
    "stl10": Source("vision", *_STL, 5_000, 96, torchvision="STL10"),
    # Photographs of many sizes, for which the paper names no constants: those of the images in use.
    "food101": Source("pictures", train_size=75_750, image_size=32, torchvision="Food101"),
    "imagenette": Source("pictures", train_size=9_469, image_size=32, torchvision="Imagenette"),
    "places365": Source("pictures", train_size=1_803_460, image_size=32, torchvision="Places365"),
    "imagefolder": Source("folder"),
    "synthetic": Source(  # (pattern + 3 · noise) // 4, both uniform over 256 bytes:
        "synthetic", (0.4985,) * 3, (0.2291,) * 3,  # 127.5 − 0.375 and √(10/16 · 256²/12), over 255
        image_size=32, classes=tuple(f"pattern {k}" for k in range(10)), in_data_dir=False,
    ),
    "pydoc": Source("text", classes=_BYTES, in_data_dir=False, text=True),
    "text": Source("text", classes=_BYTES, text=True),
}  # fmt: skip
"""Name of a data set → its entry."""
