"""The program abs-dssp: which commands it has and how it starts them."""

import ast
import doctest
import json
import os
import re
import subprocess
import sys

import pytest

import abs_dssp
from abs_dssp import commands
from abs_dssp.cluster.launcher import launch
from scripts import ROOT, start_many

FOLDER = ROOT / "abs_dssp" / "commands"
EXPERIMENTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_command_is_a_module_whose_help_shows_how_it_is_called(name):
    tree = ast.parse((FOLDER / f"{name.replace('-', '_')}.py").read_text())
    assert f"abs-dssp {name}" in ast.get_docstring(tree)
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert "run" in functions


def test_every_module_and_every_script_is_a_command():
    names = {name.replace("-", "_") for name in commands.COMMANDS}
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == names
    assert EXPERIMENTS and EXPERIMENTS <= names


@pytest.mark.parametrize("stem", sorted(EXPERIMENTS))
def test_a_script_starts_the_command_of_its_name(stem):
    text = (ROOT / "experiments" / f"{stem}.py").read_text()
    assert re.findall(r'commands\.run\("(.*)"\)', text) == [stem.replace("_", "-")]
    assert len(text.splitlines()) < 10


def abs_dssp_says(*words):
    """Status, output and errors of the program, and what it has imported."""
    code = (
        "import atexit, json, sys\n"
        "from abs_dssp import commands\n"
        "atexit.register(lambda: print(json.dumps(list(sys.modules))))\n"
        "sys.argv = ['/somewhere/abs-dssp', *sys.argv[1:]]\n"
        "commands.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True
    )
    *printed, last = done.stdout.splitlines()
    return done.returncode, printed, done.stderr, set(json.loads(last))


def test_help_lists_the_commands_and_imports_nothing_heavy():
    code, printed, _, modules = abs_dssp_says("--help")
    assert code == 0
    listed = [line.split()[0] for line in printed if line.startswith("  ")]
    assert listed == list(commands.COMMANDS)
    assert not modules & {"jax", "numpy", "absl", "flax", "tensorflow_datasets"}
    code, printed, _, _ = abs_dssp_says("--version")
    assert code == 0 and printed == [f"abs-dssp {abs_dssp.__version__}"]


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "abs_dssp", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "words, message",
    [
        (["comparee"], "unknown command 'comparee' (did you mean compare?); known: "),
        (["lower_bond"], "unknown command 'lower_bond' (did you mean lower-bound?)"),
        (["xyzzy", "--out=x"], "unknown command 'xyzzy'; known: compare, train, "),
        (["--out=x"], "expected a command first, got --out=x; known: compare, "),
        ([], "expected a command first; known: compare, train, "),
    ],
)
def test_what_is_no_command_gets_one_sentence_and_status_2(words, message):
    code, printed, errors, modules = abs_dssp_says(*words)
    assert code == 2 and not printed
    assert errors.startswith("error: abs-dssp: ") and errors.count("\n") == 1
    assert message in errors and "jax" not in modules


def flags_of(text):
    return re.findall(r"^  --(?:\[no\])?(\w+):", text, re.MULTILINE)


def test_a_command_shows_the_help_and_takes_the_flags_of_its_script():
    """The second line of each pair is the script."""
    experiments = ROOT / "experiments"
    flagfile = f"--flagfile={experiments / 'demo.flags'}"
    compare, ours, script, read, launched = start_many(
        [
            ["-m", "abs_dssp", "compare", "--help"],
            ["-m", "abs_dssp", "lower_bound", "--help"],
            [experiments / "lower_bound.py", "--help"],
            ["-m", "abs_dssp", "compare", flagfile, "surplus"],
            ["-m", "abs_dssp", "launch", "--help"],
        ]
    )
    assert compare[1].startswith("Who reaches the target first")
    assert "abs-dssp compare --out=out/compare" in compare[1]
    assert {"policy", "task", "seeds", "out", "until"} < set(flags_of(compare[1]))
    assert ours[1].splitlines()[0] == script[1].splitlines()[0]
    assert flags_of(ours[1]) == flags_of(script[1])
    assert "probabilities" in flags_of(ours[1])
    assert "Unexpected arguments: surplus" in read[1] + read[2]
    assert launched[0] == 0 and "usage: abs-dssp launch --processes=P" in launched[1]


def test_public_modules_are_imported_when_they_are_asked_for():
    code = (
        "import sys, abs_dssp\n"
        "assert 'jax' not in sys.modules and 'simulate' in dir(abs_dssp)\n"
        "import importlib\n"
        "for name in abs_dssp._MODULES:\n"
        "    found = getattr(abs_dssp, name)\n"
        "    assert found is importlib.import_module('abs_dssp.' + name), name\n"
        "try:\n"
        "    abs_dssp.simulat\n"
        "except AttributeError as error:\n"
        "    assert 'simulat' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_packages_own_example_runs():
    assert doctest.testmod(abs_dssp) == (0, 2)


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse((ROOT / "abs_dssp" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [alias.name for node in block.body for alias in node.names]
    assert sorted(seen) == sorted(abs_dssp._MODULES)


def test_the_launcher_starts_a_command_in_place_of_a_script(capfd):
    start = [sys.executable, "-c", "import sys; print('told', *sys.argv[1:])"]
    words = ["--processes=1", "--no-attach_first", "--", "tell", "--more"]
    assert launch.main(words, "abs-dssp launch", {"tell": start}) == 0
    assert "told --more --coordinator_apart --key_file=" in capfd.readouterr().err
