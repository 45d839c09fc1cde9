"""What the environment decides of every point of a sweep."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

from lowrank.common.errors import refuse
from lowrank.config import Config, Given
from lowrank.config.settings import FREE_ON_RESUME, with_role
from lowrank.config.sources import bad_values
from lowrank.config.sweepfile import COUPLED, Distribution, SweepFile
from lowrank.config.sweepfile.parameters import fields_of, values_of
from lowrank.config.values import read_value


def environment_of(sweep: SweepFile, overrides: Collection[str]) -> dict[str, Any]:
    """Returns what the environment decides of every point, as ``LOWRANK_BATCH_SIZE`` does.

    Args:
        sweep: The file.
        overrides: Fields that have one value at every point.

    Returns:
        Values by field, but for those that may differ by machine.

    Raises:
        InputError: A line for each value that is not allowed.
    """
    decided = {*overrides, *sweep.parameters, *FREE_ON_RESUME, *with_role("machine")}
    coupled = sweep.parameters.get(COUPLED)
    if coupled is not None and not isinstance(coupled, Distribution):
        fields = [set(fields_of(COUPLED, value, "")) for value in values_of(coupled)]
        decided |= set.intersection(*fields)
    given = {
        name: Given(value, variable)
        for name in Config.model_fields
        if name not in decided and (value := os.environ.get(variable := f"LOWRANK_{name.upper()}"))
    }
    refuse(bad_values(given).values())
    values = {
        name: read_value(Config.model_fields[name].annotation, value)
        for name, (value, _) in given.items()
    }
    return dict(json.loads(json.dumps(values)))
