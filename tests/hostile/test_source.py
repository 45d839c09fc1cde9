"""The source itself: nothing in it runs what others wrote.

Read from the syntax tree, so that no spelling of a call hides it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted([*(ROOT / "lowrank").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
FILES.append(ROOT / "train.py")
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "numpy.fromregex", "tempfile.mktemp",
    "joblib.load", "dill.load", "cloudpickle.load", "subprocess.getoutput", "os.execve",
}  # fmt: skip
ALLOWED = {("docker_entrypoint.py", "os.execv")}  # of a program in a table of its own


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yields every call with its dotted name, imports under other names resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    real: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            real |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            real |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            yield ".".join(filter(None, [real.get(first, first), rest])), node


def said(call: ast.Call, name: str) -> str:
    """Returns a keyword argument as it stands in the source; empty where there is none."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


def problems(path: Path) -> Iterator[str]:
    for name, call in calls(path):
        line = f"{path.name}:{call.lineno}: {name}"
        if name in FORBIDDEN and (path.name, name) not in ALLOWED:
            yield line
        elif name == "torch.load" and said(call, "weights_only") != "True":
            yield f"{line} without weights_only=True"
        elif name == "yaml.load" and said(call, "Loader") != "loader":
            yield f"{line} with another loader than yamltext's"
        elif name in ("numpy.load", "np.load") and said(call, "allow_pickle") not in ("", "False"):
            yield f"{line} with allow_pickle"
        elif said(call, "shell") not in ("", "False"):
            yield f"{line} through a shell"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_others_wrote(path):
    assert list(problems(path)) == []


def test_the_only_loader_of_yaml_makes_nothing_but_scalars_lists_and_mappings():
    import yaml

    from lowrank.config import yamltext

    for loader in (yamltext._Loader, yamltext._TypedLoader):
        safe = (yaml.BaseLoader, yaml.SafeLoader, yaml.CBaseLoader, yaml.CSafeLoader)
        assert issubclass(loader, safe)
        constructors = [c for c in loader.yaml_constructors if c and "python" in c]
        assert constructors == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x', weights_only=False)",
        "import yaml\nyaml.load('x', Loader=yaml.Loader)",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import pickle\npickle.loads(b'')",
        "eval('1')",
    ],
)
def test_what_is_looked_for_is_found(tmp_path, source):
    (tmp_path / "x.py").write_text(source)
    assert list(problems(tmp_path / "x.py"))


def test_the_page_of_a_report_makes_no_html_of_data():
    folder = ROOT / "lowrank" / "views" / "report" / "page"
    words = (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
        "createContextualFragment", "srcdoc",
    )  # fmt: skip
    for script in folder.glob("*.js"):
        assert not [word for word in words if word in script.read_text(encoding="utf-8")], script
