"""The installation, made by setuptools and looked at as Python does, without a venv of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in a folder that is called lowrank, as git calls it."""
    path = tmp_path_factory.mktemp("work") / "lowrank"
    path.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, path)
    shutil.copytree(ROOT / "lowrank", path / "lowrank", ignore=shutil.ignore_patterns("*.pyc"))
    return path


def built(clone, place, how):
    """Installs what setuptools builds, into a directory; returns that."""
    program = f"from setuptools import build_meta; build_meta.{how}({str(place)!r})"
    place.mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=clone, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    return place


def imported(site, directory):
    """Returns the file of the package that Python finds from a working directory."""
    program = (
        f"import site; site.addsitedir({str(site)!r}); import lowrank; print(lowrank.__file__)"
    )
    command = [sys.executable, "-B", "-E", "-S", "-c", program]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return result.stdout.strip() or result.stderr


@pytest.mark.parametrize("where", [".", "..", "../.."])
def test_an_editable_install_is_found_also_beside_a_folder_of_the_same_name(clone, tmp_path, where):
    site = built(clone, tmp_path / "site", "build_editable")
    assert imported(site, clone / where) == str(clone / "lowrank" / "__init__.py")


def test_an_install_holds_every_file_of_the_package_and_no_other(clone, tmp_path):
    site = built(clone, tmp_path / "site", "build_wheel")
    installed = {path.relative_to(site) for path in (site / "lowrank").rglob("*") if path.is_file()}
    source = {path.relative_to(clone) for path in (clone / "lowrank").rglob("*") if path.is_file()}
    assert installed == source
    assert {path.name for path in site.iterdir() if path.is_dir()} == {
        "lowrank",
        "lowrank-0.1.0.dist-info",
    }
    assert imported(site, clone.parent) == str(site / "lowrank" / "__init__.py")
