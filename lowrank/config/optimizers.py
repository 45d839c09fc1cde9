"""The table of optimisers: a new one of ``torch.optim`` is an entry."""

from __future__ import annotations

from typing import NamedTuple


class Optimizer(NamedTuple):
    """What the configuration and `lowrank.training` need to know of an optimiser.

    Attributes:
        torch: The class of ``torch.optim``; None if it steps by its formula always.
        fields: The fields that it reads besides ``lr`` and ``weight_decay``, each under the
            name of the class's argument; those of other optimisers are refused beside it.
        shrinks: Whether a step multiplies the weights by 1 - lr x weight_decay.
        fused: Whether the class takes ``fused=True``, one kernel for the whole step.
        of_matrices: Whether its formula steps hidden weight matrices only; all else is AdamW's.
        formula: Whether `lowrank.training.optimizer` has it as formulas of tensors, which packs and
            compiled steps need.
    """

    torch: str | None
    fields: tuple[str, ...] = ()
    shrinks: bool = False
    fused: bool = True
    of_matrices: bool = False
    formula: bool = False


OPTIMIZERS = {
    "sgd": Optimizer("SGD", ("momentum",), shrinks=True, formula=True),
    "adam": Optimizer("Adam", formula=True),
    "adamw": Optimizer("AdamW", shrinks=True, formula=True),
    "muon": Optimizer(None, shrinks=True, of_matrices=True, formula=True),
}
"""Name of an optimiser → its entry."""

FORMULAS = [name for name, entry in OPTIMIZERS.items() if entry.formula]
"""Those that packs and compiled steps may have."""


def keeps_state(optimizer: str, momentum: float) -> bool:
    """Returns whether an optimiser goes on only with what it remembers of its steps.

    Args:
        optimizer: Its name.
        momentum: The field.

    Example:
        >>> keeps_state("sgd", 0.0), keeps_state("sgd", 0.9), keeps_state("adam", 0.0)
        (False, True, True)
    """
    return optimizer != "sgd" or momentum != 0
