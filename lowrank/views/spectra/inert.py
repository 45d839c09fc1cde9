"""Stand-ins for what training scripts save beside the weights, so that nothing of it is executed.

`torch.load` looks up each class and function of a pickle in a table. This one gives it, in place of
the real ones, a class that keeps nothing and does nothing: a checkpoint with command-line
arguments, scalars of numpy or states of random generators can be read as safely as one without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Inert:
    """An object of which nothing is kept.

    Args:
        *_: Ignored.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> Inert:
        """Returns an object, whatever it was made of."""
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""


def _mapping(*_: object) -> dict[Any, Any]:
    """Returns a dictionary for what is filled as one."""
    return {}


_OBJECTS = """
argparse.Namespace types.SimpleNamespace
builtins.bool builtins.dict builtins.float builtins.frozenset builtins.int builtins.list
builtins.range builtins.slice builtins.str builtins.tuple
datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone
decimal.Decimal fractions.Fraction uuid.UUID
pathlib.Path pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.WindowsPath
pathlib.PureWindowsPath pathlib._local.PosixPath pathlib._local.WindowsPath
random.Random torch.Generator torch.torch_version.TorchVersion
numpy.dtype numpy.ndarray
numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct
numpy.core.multiarray.scalar numpy._core.multiarray.scalar
numpy._core.numeric._frombuffer numpy.core.numeric._frombuffer
numpy.random._mt19937.MT19937 numpy.random._pcg64.PCG64 numpy.random._pcg64.PCG64DXSM
numpy.random._philox.Philox numpy.random._sfc64.SFC64
numpy.random._pickle.__bit_generator_ctor numpy.random._pickle.__generator_ctor
numpy.random._pickle.__randomstate_ctor numpy.random.bit_generator.SeedSequence
numpy.random.bit_generator.__pyx_unpickle_SeedSequence
"""
_DICTIONARIES = """
collections.defaultdict
lightning.fabric.utilities.data.AttributeDict
lightning_fabric.utilities.data.AttributeDict
pytorch_lightning.utilities.parsing.AttributeDict
"""

STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((Inert, name) for name in _OBJECTS.split()),
    *((_mapping, name) for name in _DICTIONARIES.split()),
]
"""What `torch.serialization.safe_globals` takes: stand-ins and the names that they stand for."""
