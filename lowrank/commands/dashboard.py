"""``lowrank dashboard``: a W&B workspace for the ranks of a project or a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import field_validator

from lowrank.common.files import expanded
from lowrank.common.terminal import say
from lowrank.common.texts import nearest, printable
from lowrank.common.wandb_paths import parts_of
from lowrank.config import Config
from lowrank.config.options import OptionError, Options, option, word
from lowrank.config.settings import SAME_EXPERIMENT
from lowrank.config.sweepfile import is_sweep_file, load_sweep_file

_ALLOWED = "allowed: ENTITY/PROJECT, such as me/lowrank"


class Dashboard(Options):
    """What ``lowrank dashboard`` is asked for."""

    project: str = word(
        "ENTITY/PROJECT",
        "",
        f"which project? {_ALLOWED}",
        f"which project? got '{{}}'; {_ALLOWED}",
    )
    sweep: str | None = option(
        None,
        "shows one sweep only: the id of a W&B sweep, or of a sweep run without a server the name "
        "or, not with --dump, what its runs' ids begin with; a sweep file (.yaml) stands for its "
        "name, and says what is swept",
        "ID",
        "the id of a W&B sweep, a sweep file, or the name of a sweep run without a server",
    )
    by: tuple[str, ...] = option(
        (),
        "the fields to show ranks by, such as lr,weight_decay; default: those that the sweep, or "
        "the project's runs, vary",
        "LIST",
        "a list of fields such as lr,weight_decay",
    )
    name: str | None = option(
        None,
        "what the workspace is called",
        "TEXT",
        "a text of 1 to 128 characters",
        max_length=128,
    )
    dump: bool | str = option(
        False, "writes the specification, needing no server and no account", "[=FILE]"
    )
    column = 15
    notes = """\
The workspace is built anew at each call: what was changed in it by hand is
replaced. Save a copy in W&B to keep such changes.
"""

    @field_validator("project")
    @classmethod
    def _is_place(cls, place: str) -> str:
        names = parts_of(place, "project")
        if names is None:
            raise OptionError(f"which project? got '{printable(place)}'; {_ALLOWED}")
        return "/".join(names)

    @field_validator("sweep")
    @classmethod
    def _is_sweep(cls, sweep: str) -> str:
        names = parts_of(sweep, "sweep") or ()
        if is_sweep_file(sweep):
            return sweep
        if len(names) not in (1, 3):
            raise ValueError("no sweep")
        return "/".join(names)

    @field_validator("by", mode="before")
    @classmethod
    def _are_fields(cls, names: Any) -> Any:
        if isinstance(names, str):
            names = tuple(name.strip() for name in names.split(",") if name.strip())
        lines = [
            f"by: unknown field '{printable(each)}'{nearest(each[:60], Config.model_fields)}"
            for each in names
            if each not in Config.model_fields
        ]
        if lines:
            raise OptionError(*lines)
        return names

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        place, slash, _ = (self.sweep or "").rpartition("/")
        if slash and self.project and not is_sweep_file(self.sweep or "") and place != self.project:
            yield f"sweep: {printable(self.sweep or '')} is not in {printable(self.project)}"


def run(options: Dashboard) -> int:
    """Builds the workspace and saves it in W&B, or writes its specification.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.
    """
    from lowrank.views.dashboard.save import ask, dump, save
    from lowrank.views.dashboard.workspace import build_workspace

    sweep, swept = options.sweep, list(options.by)
    if sweep and is_sweep_file(sweep):
        file = load_sweep_file(sweep)
        shown: dict[str, Any] = {"local_sweep": file.name}
        swept = swept or [field for field in file.swept if field not in SAME_EXPERIMENT]
    else:
        sweep = sweep and sweep.rpartition("/")[2]
        shown = {"sweep_id": sweep, "local_sweep": sweep} if sweep else {}
        if options.dump is False:
            shown, found = ask(options.project, sweep)
            swept = swept or found
    entity, project = options.project.split("/")
    workspace = build_workspace(entity, project, swept, name=options.name, **shown)
    if options.dump is not False:
        dump(workspace, None if options.dump is True else expanded(options.dump))
        return 0
    replaced, url = save(workspace)
    panels = sum(len(section.panels) for section in workspace.sections)
    by = f" by {', '.join(swept)}" if swept else ""
    done = "updated" if replaced else "made"
    say(printable(f"{done} the workspace {workspace.name!r}, {panels} panels{by}", None))
    say(printable(url, None))
    return 0
