"""``lowrank agent``: W&B agents for a sweep, one on every GPU."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from lowrank.common.files import expanded
from lowrank.common.texts import printable
from lowrank.common.wandb_paths import parts_of
from lowrank.config.options import OptionError, Options, option, word
from lowrank.config.sources import of_machine
from lowrank.launch.slots import ALLOWED


class Agent(Options):
    """What ``lowrank agent`` is asked for."""

    sweep: str = word(
        "ENTITY/PROJECT/SWEEP",
        "",
        "which sweep? for example: lowrank agent ENTITY/PROJECT/SWEEP",
        "one sweep at a time, not {}",
    )
    gpus: str = option(
        "auto",
        "{default} (default): all, or the CPU where there is none; all; none: the CPU; or numbers "
        "as nvidia-smi has them, such as 0,1",
        "GPUS",
        ALLOWED,
    )
    per_gpu: int = option(
        1,
        "agents on each GPU; on the CPU agents in all, among which\nthe cores are divided; default "
        "{default}",
        "K",
        "1 or more",
        ge=1,
    )
    pack: int = option(
        1,
        "agents of each slot whose points train as one batched\ncomputation, in one process; "
        "default {default}: each alone",
        "N",
        "1 or more",
        ge=1,
    )
    count: int | None = option(
        None,
        "points to take in all, not by each agent; default: until the sweep is exhausted",
        "N",
        "1 or more",
        ge=1,
    )
    output_dir: str | None = option(
        None, "where runs go, and logs to DIR/agents/SWEEP; default runs", "DIR", "a directory"
    )
    max_failures: int = option(
        3, "failures in a row that stop an agent; default {default}", "N", "1 or more", ge=1
    )
    stagger: float = option(
        5.0,
        "between the starts of two agents; default {default}",
        "SECONDS",
        "seconds, 0 or more",
        ge=0,
    )
    column = 19
    notes = """\
Ctrl-C, SIGTERM and SIGUSR1 let trainings checkpoint and end; a second signal
kills them. Exit codes: 0 the sweep is exhausted or the count reached, 1 a
point failed or an agent was stopped, 2 the check failed, 75 SIGUSR1, 130 and
143 by signal. Started again it first goes on with what was interrupted here.
"""

    @field_validator("sweep")
    @classmethod
    def _is_path(cls, path: str) -> str:
        names = parts_of(path, "sweep")
        if names is None:
            got = printable(path)
            raise OptionError(f"got '{got}'; allowed: ENTITY/PROJECT/SWEEP or its end")
        return "/".join(names)


def run(options: Agent) -> int:
    """Checks this machine, then runs agents until the sweep is exhausted.

    Args:
        options: What is asked for.

    Returns:
        The exit code.
    """
    # Loaded only now: a mistake on the command line is answered at once.
    from lowrank.common.signals import Interruption
    from lowrank.launch.agents.launcher import Launcher
    from lowrank.launch.agents.plan import Plan, kill_delay
    from lowrank.launch.agents.points import logs_of
    from lowrank.launch.agents.preflight import EXHAUSTED, preflight, swept_of
    from lowrank.launch.agents.status import Status
    from lowrank.launch.slots import find_slots

    grace = kill_delay()
    slots = find_slots(options.gpus, options.per_gpu)
    environment = {"LOWRANK_OUTPUT_DIR": options.output_dir} if options.output_dir else {}
    output_dir = expanded(options.output_dir or of_machine("output_dir"))
    with Status() as status, Interruption():
        sweep = preflight(options.sweep, slots, output_dir, status.line, packed=options.pack > 1)
        status.line(f"slots: {', '.join(slot.name for slot in slots)}")
        plan = Plan(
            sweep=sweep.path,
            slots=tuple(slots),
            logs=logs_of(output_dir, sweep.path),
            count=options.count,
            max_failures=options.max_failures,
            stagger=options.stagger,
            environment=environment,
            grace=grace,
            is_over=sweep.state in EXHAUSTED,
            pack=options.pack,
            program=Path(sweep.config.get("program") or ""),
            swept=swept_of(sweep.config),
        )
        return Launcher(plan, status).run()
