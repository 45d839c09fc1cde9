"""``lowrank rerun``: from a recorded run to the same run again."""

from __future__ import annotations

from collections.abc import Mapping

from lowrank.common.errors import InputError
from lowrank.config.options import Options, option, settings, word


class Rerun(Options):
    """What ``lowrank rerun`` is asked for."""

    run: str = word(
        "RUN",
        "a run directory, a record.sqlite or a W&B run path\n(ENTITY/PROJECT/ID)",
        "which run? one, for example: lowrank rerun runs/ID --check",
    )
    check: bool = option(False, "compares every epoch's metrics and spectra with the original's")
    docker: bool | str = option(
        False,
        "runs it in a container of the image that the record names;\n"
        "--docker=IMAGE: of another one",
    )
    given: Mapping[str, str] = settings(
        "a field of the configuration: where and how the run is stored and tracked; with --check "
        "also device, threads and epochs, and without it any",
        resume="a rerun is a new run; leave it out",
    )
    notes = """\
The rerun has the recorded configuration, seed and thread count. It goes beside
the original, or for a record from elsewhere into output_dir; data_dir is the
recorded one where it exists. Of a run that trained in a pack --check runs the
whole pack again, if its runs lie beside it. Exit codes: 0 finished and, with
--check, bitwise identical; 1 a failure or a difference; 2 bad input; 130 and
143 by signal.
"""


def run(options: Rerun) -> int:
    """Runs a recorded run again, as a new run, and compares the two if asked to.

    Args:
        options: What is asked for.

    Returns:
        The exit code: that of the training or, where they are compared, 0 if the two runs are
        bitwise identical and 1 if not.

    Raises:
        InputError: If the run cannot be repeated, here or at all.
    """
    from lowrank.launch.reruns.here import run_directory, run_here
    from lowrank.runs.find import load_run

    original = load_run(options.run)
    local = run_directory(options.run, original)
    if options.check and not len(original.epochs):
        raise InputError(f"{original.path}: holds no epoch that --check could compare")
    if options.docker is False:
        return run_here(original, options.given, local=local, check=options.check)
    from lowrank.launch.reruns.container import container, execute, image_of

    image = image_of(original, "" if options.docker is True else options.docker)
    return execute(container(original, image, options.given, local=local, check=options.check))
