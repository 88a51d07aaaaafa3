"""The wheel and the sdist: what they hold, and the program where nothing else is."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser

import pytest

import abs_dssp
from abs_dssp import commands
from abs_dssp.history.traces import Trace
from scripts import ROOT, one_device

NAME = f"abs_dssp-{abs_dssp.__version__}"
BUILT = (".*", "out", "build", "__pycache__", "*.egg-info")  # is not the source
DATA = {
    "abs_dssp/py.typed",
    "abs_dssp/experiment/reproduction/busy_machine.csv",
    "abs_dssp/simulation/fitted_times.toml",
}


def checked(command, **settings):
    """What a command that must succeed prints."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, **settings
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def builder(folder):
    """A Python with setuptools as pyproject.toml asks for it."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77:
        return sys.executable
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    checked([python, "-m", "pip", "install", "--quiet", "setuptools>=77"])
    return python


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, made of a copy of the source."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*BUILT))
    python = builder(folder / "builder")
    for kind in ("wheel", "sdist"):  # a process each, as build front ends have it
        code = (
            f"from setuptools import build_meta as b; b.build_{kind}({str(folder)!r})"
        )
        checked([python, "-c", code], cwd=source)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    return zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl")


def modules():
    """Every module of the source, as a path in it."""
    paths = (ROOT / "abs_dssp").rglob("*.py")
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = set(wheel.namelist())
    about = {name for name in held if name.startswith(f"{NAME}.dist-info/")}
    assert held - about == modules() | DATA
    assert f"{NAME}.dist-info/licenses/LICENSE" in about
    assert sum(entry.file_size for entry in wheel.infolist()) < 4e6


def test_the_sdist_holds_what_builds_it_and_no_tests_or_pictures(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as file:
        held = {name.removeprefix(f"{NAME}/") for name in file.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"}
    wanted |= {"experiments/compare.py", "experiments/demo.flags"}
    assert wanted | modules() | DATA <= held
    assert not [name for name in held if name.startswith(("tests", "docs"))]
    assert not [name for name in held if name.endswith((".png", ".pyc", ".key"))]


def test_the_metadata_name_licence_extras_and_program(wheel):
    about = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    assert about["License-Expression"] == "Apache-2.0"
    extras = {"cluster", "plot", "examples", "all", "cuda12", "cuda13", "docs"}
    extras |= {"test"}
    assert set(about.get_all("Provides-Extra")) == extras
    core = {
        line.partition(">")[0]
        for line in about.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    named = {"jax", "flax", "optax", "numpy", "absl-py", "tensorflow-datasets"}
    assert core == named | {"jaxtyping", "scipy", "tqdm"}
    program = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert "abs-dssp = abs_dssp.commands:main" in program


def test_the_changelog_has_the_present_version():
    assert f"\n## [{abs_dssp.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def installed(built, wheel):
    """Runs `abs-dssp` of the installed wheel in a folder without the source tree."""
    home, folder = built / "venv", built / "elsewhere"
    folder.mkdir()
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    checked([*install, "--no-deps", "--no-index", wheel.filename])
    # Beside it the libraries of this environment, yet not what its own .pth files add.
    paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    inside = checked([python, "-c", "import site; print(site.getsitepackages()[0])"])
    with open(os.path.join(inside.strip(), "present.pth"), "w") as file:
        file.write("\n".join(sorted(paths)))
    environment = one_device() | {"PYTHONNOUSERSITE": "1"}
    environment.pop("PYTHONPATH", None)
    where = {"cwd": folder, "env": environment}
    found = checked(
        [python, "-c", "import abs_dssp; print(abs_dssp.__file__)"], **where
    )
    assert found.startswith(str(home)), found

    def run(*words):
        return checked([home / "bin" / "abs-dssp", *words], **where)

    return folder, run


@pytest.mark.slow
def test_the_installed_program_compares_trains_and_checks(installed):
    folder, run = installed
    assert all(f"  {name} " in run("--help") for name in commands.COMMANDS)
    short = ["--epochs=1", "--evaluations=2"]
    (folder / "mine.py").write_text("from abs_dssp.policies import asp as eager\n")
    compared = run(
        "compare", "--policy=mine:eager()", "--policy=bsp()", "--seeds=1", *short,
        "--limit_train=64", "--out=compared",
    )  # fmt: skip
    assert "mine:eager()" in compared
    assert (folder / "compared" / "accuracy_time.png").exists()
    real = ["--cluster=local", "--processes=2", "--limit_train=64", "--policy=asp()"]
    run("train", *real, *short, "--out=real")
    trace = Trace.load(folder / "real" / "trace.npz")
    assert trace.recorded and trace.num_workers == 2 and len(trace) == 2
    replayed = run("replay", "real")
    assert "equal in every bit" in replayed and "NOT" not in replayed
    assert "the policy decides the same" in replayed
    assert "check: " in run("whatif", "real", "--policy=bsp()")
    assert "The first: --policy=" in run("advise", "real", "--pushes=100")
    small = ["--num_workers=2", "--depth=6", "--schedule_depth=6"]
    assert "no broken" in run("verify", "--policy=ssp(s=1)", *small)
