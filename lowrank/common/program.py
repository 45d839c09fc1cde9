"""How a program of this package ends: known errors become lines and exit codes."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Callable

from lowrank.common.errors import Failure, InputError, is_out_of_memory
from lowrank.common.texts import printable

memory_ran_out = False
"""Whether that is how the last program of this process ended which `exit_code_of` ran."""


def command_line(program: str) -> str:
    """Returns how a program of Python is started from the working directory.

    Args:
        program: Its file.

    Returns:
        Words for a shell: this Python, which may not be the one that is called ``python`` there,
        and the file.
    """
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return shlex.join([python, os.path.relpath(program)])


def exit_code_of(program: str, work: Callable[[], int]) -> int:
    """Runs a program's work; what a user can mend is told in lines, without a traceback.

    Args:
        program: Its name, at the start of each line on standard error.
        work: Does everything and returns the exit code.

    Returns:
        What ``work`` returns, 2 on bad input, 1 on a failure, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        OSError: Without the system's words: none that a user could mend.
    """
    global memory_ran_out
    memory_ran_out = False
    for stream in (sys.stdout, sys.stderr):
        # Tables hold ε and ×: on a terminal without them they become question marks, not errors.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        code, lines = 2, error.lines
    except Failure as error:
        code, lines, memory_ran_out = 1, error.lines, is_out_of_memory(error)
    except KeyboardInterrupt as interruption:
        code, lines = getattr(interruption, "exit_code", 130), ["interrupted"]
    except MemoryError:
        code, memory_ran_out = 1, True
        lines = ["this machine's memory is too small for what was asked"]
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of a path that nobody expected to be refused
        if error.strerror is None:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        code = 2 if error.errno == errno.ENAMETOOLONG else 1
        lines = [printable(f"{place}{error.strerror}", None)]
    else:
        return code
    for line in lines:
        print(f"{program}: {line}", file=sys.stderr)
    return code
