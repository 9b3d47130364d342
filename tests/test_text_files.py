"""Text files are UTF-8 whatever the locale: every call that opens one says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("mindcv_models/**/*.py")]


def calls_without_encoding(text):
    """Lines of calls that open a text file in the encoding of the locale."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            mode = (
                node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            )
            if not (isinstance(mode, ast.Constant) and "b" in mode.value):
                yield node.lineno
        elif isinstance(node.func, ast.Attribute) and len(node.args) == {"read_text": 0, "write_text": 1}.get(
            node.func.attr
        ):
            yield node.lineno


def test_every_text_file_is_opened_as_utf8():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert len(SOURCES) > 80


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("open(path)", [1]),
        ("open(path, 'w', newline='')", [1]),
        ("open(path, mode='r')", [1]),
        ("open(path, 'rb')\nopen(path, 'w', encoding='utf-8')", []),
        ("a.read_text()\na.write_text(b)", [1, 2]),
        ("a.read_text('utf-8')\na.write_text(b, 'utf-8')\nwrite_text(path, b)", []),
    ],
)
def test_a_call_without_encoding_is_found(text, lines):
    assert list(calls_without_encoding(text)) == lines
