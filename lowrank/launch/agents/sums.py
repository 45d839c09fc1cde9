"""What there is to say of all workers together: the rows of the table, and the last lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lowrank.launch.agents.status import Row, named
from lowrank.launch.agents.worker import Worker


def rows(slots: Sequence[Sequence[Worker]]) -> list[Row]:
    """Returns what the table shows of each slot, of a pack as of one.

    Args:
        slots: The workers of each.
    """
    return [
        Row(
            workers[0].pack.slot.name if workers[0].pack else workers[0].slot.name,
            next((w.state for w in workers if w.point is not None), workers[0].state),
            sum(worker.done for worker in workers),
            sum(worker.failed for worker in workers),
            [worker.point for worker in workers if worker.point is not None],
        )
        for workers in slots
    ]


def summary(workers: Sequence[Worker], left: Sequence[str], logs: Path) -> list[str]:
    """Returns the lines that the launcher ends with.

    Args:
        workers: All.
        left: Runs that nobody has taken up again.
        logs: Directory of the slots' logs.
    """
    done, failed, of_agents = (
        sum(getattr(worker, name) for worker in workers)
        for name in ("done", "failed", "agent_failures")
    )
    points = "1 point" if done == 1 else f"{done} points"
    lost = Counter(how for worker in workers for how in worker.lost)
    points += " done" + "".join(f", {n} of them {how}" for how, n in sorted(lost.items()))
    interrupted = [*(run for worker in workers for run in worker.interrupted), *left]
    more = f", {len(interrupted)} interrupted" if interrupted else ""
    more += f", agents failed {of_agents} time{'' if of_agents == 1 else 's'}" if of_agents else ""
    lines = [f"{points}, {failed} failed{more}; logs in {logs}"]
    return [*lines, f"the same command goes on with {named(interrupted)}"] if interrupted else lines
