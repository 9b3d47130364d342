"""The arrows between the rooms of the package, read from its import statements; MindSpore is not imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "mindcv_models"

# From the bottom up. A module imports from its own level and from those below it, and no two rooms import each other.
LEVELS = [
    {"errors", "files"},
    {"backend", "cells", "hosts"},
    {"layers"},
    {"models", "shared_memory"},
    {
        "distributed",
        "graph",
        "graph_cache",
        "input_size",
        "options",
        "pretrained",
        "process",
        "profile",
        "reparameterize",
    },
    {"checkpoint", "data", "evaluation", "export", "training"},
    {"classification", "detection", "segmentation"},
    {"serving", "tasks"},
    {"benchmark", "create", PACKAGE},  # PACKAGE is its __init__.py
]
TASKS = {"classification", "detection", "segmentation"}
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# Arrows that point up and are still to be mended: (file, room). One that is no longer there fails the test as well.
EXCEPTIONS = set()


def room_of(path):
    """The room of a file of the package: a folder, or a module on its own."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return PACKAGE if parts == ("__init__",) else parts[0]


def modules_imported(text, package):
    """The dotted names that ``text`` imports; ``package`` is what its relative imports begin from.

    Every statement counts, those inside of functions too. ``from a import b`` gives ``a.b``, since b may be a module.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def imports_of(path):
    return set(modules_imported(path.read_text(), ".".join(path.relative_to(ROOT).parts[:-1])))


def rooms_imported(path):
    """The rooms that a file of the package imports, its own included."""
    for name in imports_of(path):
        first, *rest = name.split(".")
        if first == PACKAGE:
            yield rest[0] if rest and rest[0] in LEVEL else PACKAGE


def arrows():
    """(file, room of the file, room that it imports) for each import of another room."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for target in sorted(set(rooms_imported(path)) - {room_of(path)}):
            yield str(path.relative_to(ROOT / PACKAGE)), room_of(path), target


def points_up(source, target):
    return LEVEL[target] > LEVEL[source] or {source, target} <= TASKS


def cycle(graph):
    """A list of rooms that import each other in turn, or None; ``graph`` is the set of rooms that each imports."""
    done = set()

    def visit(room, path):
        if room in path:
            return [*path[path.index(room) :], room]
        if room in done:
            return None
        found = next(filter(None, (visit(target, [*path, room]) for target in sorted(graph.get(room, ())))), None)
        done.add(room)
        return found

    return next(filter(None, (visit(room, []) for room in sorted(graph))), None)


def test_every_room_has_a_level():
    rooms = {room_of(path) for path in (ROOT / PACKAGE).rglob("*.py")}
    assert rooms <= set(LEVEL)
    assert {"errors", "layers", "models", "training", "classification"} <= rooms


def test_arrows_point_down():
    wrong = {(file, target) for file, source, target in arrows() if points_up(source, target)}
    assert wrong - EXCEPTIONS == set(), "these imports point up"
    assert EXCEPTIONS - wrong == set(), "these are mended: take them out of EXCEPTIONS"


def test_no_two_rooms_import_each_other():
    graph = {}
    for file, source, target in arrows():
        if (file, target) not in EXCEPTIONS:
            graph.setdefault(source, set()).add(target)
    assert cycle(graph) is None


def test_the_package_imports_no_script_and_no_test():
    outside = {path.stem for path in ROOT.glob("*.py")} | {"tests", "tools"}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & outside, path


def test_no_test_module_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name for name in imports_of(path) if name.startswith("tests.test_")}, path


@pytest.mark.process
def test_what_serves_exported_files_loads_no_mindspore():
    """Of the modules outside of ``serving`` that it imports; its own need KServe."""
    imported = {name for path in (ROOT / PACKAGE / "serving").glob("*.py") for name in imports_of(path)}
    modules = {name.rpartition(".")[0] for name in imported if name.startswith(PACKAGE)} - {PACKAGE}
    modules = sorted(name for name in modules if not name.startswith(f"{PACKAGE}.serving"))
    assert f"{PACKAGE}.options" in modules
    code = f"import sys, {', '.join(modules)}; assert 'mindspore' not in sys.modules"
    environment = {**os.environ, "MINDCV_MODELS_SERVING": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def comparisons_of_tasks(text):
    """Lines that compare what a model's task is, rather than ask the task."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) and side.attr == "task" for side in sides):
                yield node.lineno


def test_nothing_is_decided_by_the_name_of_a_task():
    files = [*(ROOT / PACKAGE).rglob("*.py"), *ROOT.glob("*.py")]
    assert {path: lines for path in files if (lines := list(comparisons_of_tasks(path.read_text())))} == {}
    assert list(comparisons_of_tasks("if config_of(x).task == 'detection':\n    pass")) == [1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import mindcv_models.data.images", ["mindcv_models.data.images"]),
        ("from . import plots, names", ["mindcv_models.data.plots", "mindcv_models.data.names"]),
        ("def f():\n    from ..errors import InputError", ["mindcv_models.errors.InputError"]),
        ("from .. import training", ["mindcv_models.training"]),
        ("from mindcv_models.options import parse", ["mindcv_models.options.parse"]),
    ],
)
def test_imports_are_read_from_statements(text, names):
    assert list(modules_imported(text, "mindcv_models.data")) == names


def test_a_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}}) is None
    assert cycle({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}) == ["b", "d", "b"]
    assert points_up("classification", "detection") and points_up("training", "classification")
    assert not points_up("classification", "training")
