"""The reference cases of dense models, and the command that runs a folder of them."""

import json

import numpy as np
import pytest

from tests import dense_cases
from tests.helpers import dense, dense_siblings

dense.load_kinds()

# Networks of full size take a minute each; one of them is run always.
LONG, ALWAYS = ("forward", "loss", "infer"), "mask_rcnn_s_ws2_forward"
CASES = [entry["id"] for entry in json.loads((dense.DATA / "cases.json").read_text()) if entry["kind"] in dense.KINDS]


def params():
    """The cases; the long ones marked slow, but for one."""
    for name in CASES:
        long = name.rpartition("_")[2] in LONG
        marks = [*[pytest.mark.process] * long, *[pytest.mark.slow] * (long and name != ALWAYS)]
        yield pytest.param(name, id=name, marks=marks)


@pytest.mark.parametrize("name", params())
def test_case(name):
    dense.check(dense.case(name))


@pytest.fixture(scope="module")
def siblings(tmp_path_factory):
    """Cases without a network that nobody recorded, answered by loops."""
    folder = dense_siblings.Folder(tmp_path_factory.mktemp("siblings"))
    dense_siblings.quick(folder)
    return {case["id"]: case for case in dense.cases(folder.path)}


@pytest.mark.parametrize("name", dense_siblings.QUICK)
def test_other_sizes_classes_and_objects(name, siblings):
    dense.check(siblings[name])


@pytest.mark.slow
@pytest.mark.parametrize("make", dense_siblings.SLOW)
def test_other_variants_windows_and_sizes(make, tmp_path):
    folder = dense_siblings.Folder(tmp_path)
    dense_siblings.SLOW[make](folder, make)
    dense.check(dense.cases(tmp_path)[0])


def folder_of(tmp_path, *names):
    """A folder of some of the cases, their arrays changed by ``change``."""
    entries = [entry for entry in json.loads((dense.DATA / "cases.json").read_text()) if entry["id"] in names]
    (tmp_path / "cases.json").write_text(json.dumps(entries))
    for entry in entries:
        file = entry["file"].rpartition("/")[2]
        np.savez(tmp_path / file, **np.load(dense.DATA / file))
    return tmp_path


def test_the_command_prints_a_line_a_case(tmp_path, capsys):
    folder = folder_of(tmp_path, "retinanet_targets", "anchors_retinanet")
    assert dense_cases.main(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {"retinanet_targets", "anchors_retinanet"}
    assert "anchors_retinanet  0  0  ok" in lines
    assert all(line.endswith("  ok") for line in lines)


def test_the_command_says_what_differs(tmp_path, capsys):
    folder = folder_of(tmp_path, "retinanet_targets", "anchors_retinanet")
    arrays = dict(np.load(folder / "retinanet_targets.npz"))
    arrays["labels"][1, 7] += 1
    np.savez(folder / "retinanet_targets.npz", **arrays)
    entries = json.loads((folder / "cases.json").read_text())
    entries.append({**entries[0], "id": "later", "kind": "unheard_of"})
    (folder / "cases.json").write_text(json.dumps(entries))
    assert dense_cases.main(folder) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "  " in line}
    assert lines["retinanet_targets"] == "retinanet_targets  1  0  labels of image 1 differs"
    assert lines["anchors_retinanet"].endswith("ok")
    assert "kind 'unheard_of' is unknown; known ones are anchors, mask_rcnn_detect" in lines["later"]


def test_the_command_runs_some_cases(tmp_path, capsys):
    folder = folder_of(tmp_path, "retinanet_targets", "anchors_retinanet", "miou")
    assert dense_cases.main(folder, "miou", "anchors_retinanet") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["anchors_retinanet", "miou"]
    assert dense_cases.main(folder, "miou", "ious") == 2
    assert "has no case ious; its cases: anchors_retinanet, retinanet_targets, miou." in capsys.readouterr().err
    assert dense_cases.main(tmp_path / "nothing") == 2
    assert "has no readable cases.json" in capsys.readouterr().err
