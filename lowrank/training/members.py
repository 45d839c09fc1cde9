"""The runs of a pack: opened one after the other, held together, closed one by one."""

from __future__ import annotations

import queue
import shlex
import threading
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
        self._entered: list[Member] = []
        self.slots: list[Member] = []

    def __enter__(self) -> Self:
        with ExitStack() as unless_it_fails:
            unless_it_fails.push(self.__exit__)
            for request in self._requests:
                self.attempt(request, partial(self._take, request))
            unless_it_fails.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        close_all(self._entered, error)

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
            self.attempt(request, partial(member.begin, device, {**environment, **own}))

    def watch(self, pack: Pack, dataset: Dataset) -> None:
        """Looks at each network, and opens the records.

        Args:
            pack: The networks.
            dataset: What they are trained on.
        """
        for member, network in zip(self.slots, pack.networks, strict=True):
            if member.outcome is None:
                self.attempt(member.request, partial(member.watch, network, dataset))

    @property
    def living(self) -> list[Member]:
        """Those that have something left to do."""
        return [member for member in self.slots if member.outcome is None]

    def exit_codes(self) -> list[int]:
        """Returns how each run that was asked for ended."""
        codes = {id(member.request): member.exit_code for member in self.slots}
        return [codes[id(r)] or 0 if id(r) in codes else self._codes[id(r)] for r in self._requests]

    def attempt(self, request: Request, work: Callable[[], None]) -> None:
        """Does something for one run, which ends if that fails.

        Args:
            request: Of the run.
            work: What is done.

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

    def _take(self, request: Request) -> None:
        member = Member(request, len(self._requests), self._say)
        self._entered.append(member)
        if member.directory.ended:
            member.finish_earlier()
        self.slots.append(member)


def close_all(members: Sequence[Member], error: Sequence[Any] = (None, None, None)) -> None:
    """Closes runs, all at once: in an outage W&B keeps each of them waiting for minutes.

    Args:
        members: The runs; those that are closed already stay so.
        error: What a context's ``__exit__`` gets.

    Raises:
        BaseException: What closing the first of those has raised that failed.
    """
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def close(member: Member) -> None:
        failure: BaseException | None = None
        try:
            member.__exit__(*error)
        except BaseException as raised:
            failure = raised
        ended.put(failure)

    if len(members) == 1:
        close(members[0])
    else:
        for member in members:  # daemons: a second signal does not wait for them
            threading.Thread(target=close, args=(member,), daemon=True).start()
    failures = [failure for _ in members if (failure := ended.get()) is not None]
    if failures:
        raise failures[0]
