"""The runs of a pack: opened one after the other, held together, closed one by one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lowrank.common.errors import Failure, InputError
from lowrank.runs.environment import describe_command
from lowrank.training.member import Member

if TYPE_CHECKING:
    import torch

    from lowrank.data import Dataset
    from lowrank.training.pack import Pack
    from lowrank.training.requests import Request


class Members:
    """The runs of a pack, opened one after the other; a context that holds all of them.

    What one run of several cannot do is said in a line, and the others go on without it. One that
    has ended takes its place as a ghost, so that the others' bits are those of the whole pack.

    Args:
        requests: What was asked for.
        say: Prints a line for the user.

    Attributes:
        slots: Those that take part in the computation, of which some may have ended earlier.

    Raises:
        InputError: As `Member`, of a single run.
        Failure: Likewise.
    """

    def __init__(self, requests: Sequence[Request], say: Callable[[str], None]) -> None:
        self._requests = requests
        self._say = say
        self._codes: dict[int, int] = {}
        self._open = ExitStack()
        self.slots: list[Member] = []

    def __enter__(self) -> Self:
        with ExitStack() as unless_it_fails:
            unless_it_fails.push(self.__exit__)
            for request in self._requests:
                self._try(request, partial(self._take, request))
            unless_it_fails.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.__exit__(*error)

    def begin(self, device: torch.device, environment: Mapping[str, Any]) -> None:
        """Begins each run.

        Args:
            device: Where the networks go.
            environment: Of this process, for the records.
        """
        ids = [member.run_id for member in self.slots]
        before = dict.fromkeys(" ".join(member.trained_with() or ids) for member in self.living)
        if changed := before.keys() - {" ".join(ids)}:
            self._say(
                f"trained together before: {'; '.join(sorted(changed))}; now: {' '.join(ids)}: "
                "from here on numbers may differ in their last bits"
            )
        for index, member in enumerate(self.slots):
            if member.outcome is not None:
                continue
            request = member.request
            own = describe_command(request.command, request.variables)
            if len(ids) > 1:
                pack_id = f"{ids[0]}+{len(ids) - 1}"
                own["pack"] = {"id": pack_id, "size": len(ids), "index": index, "members": ids}
            self._try(request, partial(member.begin, device, {**environment, **own}))

    def watch(self, pack: Pack, dataset: Dataset) -> None:
        """Looks at each network, and opens the records.

        Args:
            pack: The networks.
            dataset: What they are trained on.
        """
        for member, network in zip(self.slots, pack.networks, strict=True):
            if member.outcome is None:
                self._try(member.request, partial(member.watch, network, dataset))

    @property
    def living(self) -> list[Member]:
        """Those that have something left to do."""
        return [member for member in self.slots if member.outcome is None]

    def exit_codes(self) -> list[int]:
        """Returns how each run that was asked for ended."""
        codes = {id(member.request): member.exit_code for member in self.slots}
        return [codes[id(r)] or 0 if id(r) in codes else self._codes[id(r)] for r in self._requests]

    def _take(self, request: Request) -> None:
        member = self._open.enter_context(Member(request, len(self._requests), self._say))
        if member.directory.ended:
            member.finish_earlier()
        self.slots.append(member)

    def _try(self, request: Request, work: Callable[[], None]) -> None:
        """Does something for one run, which ends if that fails.

        Raises:
            InputError: Of a single run.
            Failure: Likewise.
        """
        try:
            work()
        except (InputError, Failure) as error:
            if len(self._requests) == 1:
                raise
            for line in error.lines:
                self._say(f"{request.config.run_id or shlex.join(request.command)}: {line}")
            code = self._codes[id(request)] = 2 if isinstance(error, InputError) else 1
            for member in self.slots:
                if member.request is request:
                    member.fail(error, code)
            request.ended(code)
