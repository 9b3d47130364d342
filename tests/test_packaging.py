"""The package as pip installs it, and the pinned requirements that follow from pyproject.toml."""

import ast
import importlib.metadata
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from safetensors.numpy import save_file

import mindcv_models
from tests.helpers import parity
from tools import requirements

ROOT = Path(__file__).parents[1]
# Run in a folder of its own, with the installed package on the path alone.
USE = """
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
from mindcv.models.registry import is_model

import mindcv_models
from mindcv_models.checkpoint import load_weights
from mindcv_models.checkpoint.convert import Conversion, convert_checkpoint
from mindcv_models.classification.imagenet import class_names

print(mindcv_models.__file__, mindcv_models.__version__, len(class_names()))
assert all(map(is_model, mindcv_models.list_models()))
network = mindcv.create_model("fastvit_t8", num_classes=10)
convert_checkpoint("official.safetensors", Path("converted.ckpt"), Conversion("fastvit_t8"))
load_weights(network, "converted.ckpt")
np.save("logits.npy", network.set_train(False)(ms.Tensor(np.load("images.npy"))).asnumpy())
"""


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: a build leaves folders beside them."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mindcv_models", source / "mindcv_models", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", output, source)
    return next(output.iterdir())


@pytest.mark.process
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"mindcv_models-{mindcv_models.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mindcv_models").rglob("*") if p.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert "mindcv_models/layers/depthwise.cc" in names
    project = requirements.read_project()["project"]
    assert f"Version: {mindcv_models.__version__}\n" in metadata
    assert "License-File: NOTICE\n" in metadata
    assert metadata.count("\nProvides-Extra: ") == len(project["optional-dependencies"])
    assert metadata.count("\nRequires-Dist: ") == len(project["dependencies"]) + sum(
        map(len, project["optional-dependencies"].values())
    )


@pytest.mark.process
def test_an_installed_package_creates_converts_and_registers(wheel, tmp_path):
    pip("install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    case = parity.case("fastvit", "t8_nc10")
    shapes = dict(parity.manifest("fastvit")["t8"]["train"])
    shapes.update({"head.weight": (10, shapes["head.weight"][1]), "head.bias": (10,)})
    work = tmp_path / "work"
    work.mkdir()
    save_file(parity.state_dict(shapes), work / "official.safetensors")
    count, _, height, width = case["image_shape"]
    np.save(work / "images.npy", parity.images(count, height, width))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "GLOG_v": "3"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:2000]
    place, version, classes = done.stdout.splitlines()[-1].split()
    assert Path(place) == tmp_path / "site" / "mindcv_models" / "__init__.py"
    assert (version, classes) == (mindcv_models.__version__, "1000")
    logits = np.load(work / "logits.npy")
    expected = parity.reference("fastvit", case)["logits_f64"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=case["tolerance"]["logits_abs"])


def imported(file):
    """The top-level names of what a Python file imports, relative imports left out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_import_is_of_a_stated_package():
    project = requirements.read_project()["project"]
    lines = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    stated = {Requirement(line).name.lower() for line in lines}
    places = importlib.metadata.packages_distributions()
    own = {path.stem for path in ROOT.glob("*.py")} | {"mindcv_models", "tests", "tools"}
    files = [*ROOT.glob("*.py"), *(ROOT / "mindcv_models").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    names = {name for file in files for name in imported(file)} - own - sys.stdlib_module_names
    assert {"numpy", "cv2", "yaml"} <= names
    for name in names - {"markdown", "packaging"}:  # MkDocs and pytest bring them
        assert stated & {package.lower() for package in places[name]}, name


def test_the_pinned_requirements_follow_from_pyproject():
    assert requirements.disagreements(requirements.read_project()) == []


def test_a_pin_that_does_not_follow_is_named(monkeypatch, tmp_path):
    project = requirements.read_project()
    for file in project["tool"]["requirements"]:
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.setattr(requirements, "ROOT", tmp_path)
    docs, test = tmp_path / "requirements-docs.txt", tmp_path / "requirements-test.txt"
    docs.write_text(docs.read_text().replace("mkdocs==1", "mkdocs==2") + "sphinx==8\n")
    test.write_text(test.read_text() + "# more\n")
    found = requirements.disagreements(project)
    assert [line.split(":")[0] for line in found] == [docs.name, docs.name, test.name]
    assert found[0].endswith("sphinx in one of the two only")
    assert "is outside of <2,>=1.6" in found[1]
    assert requirements.text(project, test.name, lambda name: "1.0+cpu").splitlines()[1:4] == [
        "-r requirements-export.txt", "-r requirements-serve.txt", "-r requirements-docs.txt"
    ]  # fmt: skip
