"""Generated pages of the website: README.md, CONTRIBUTING.md and CHANGELOG.md, and the options of all scripts.

MkDocs calls the functions that begin with ``on_``; mkdocs.yml lists this file under ``hooks``.
"""

import dataclasses
import importlib
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Where the class of each script's options is.
OPTIONS = {
    "train.py": ("mindcv_models.options", "Options"),
    "validate.py": ("mindcv_models.classification.validate_options", "ValidateOptions"),
    "infer.py": ("infer", "InferOptions"),
    "export.py": ("export", "ExportOptions"),
    "convert_torch_weights.py": ("convert_torch_weights", "Options"),
    "benchmark.py": ("benchmark", "BenchmarkOptions"),
}
INTRODUCTION = """# Options

What `--help` prints, from the same definitions. A value comes from the command line, else from the YAML file that
`--config` names, else from the default. `train.py`, `validate.py` and `infer.py` read YAML files; the others have few
options and take them from the command line alone.
"""


def on_files(files, config):
    """Add the generated pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=relinked((ROOT / source).read_text())))
    files.append(File.generated(config, "options.md", content=options_page()))
    return files


def on_page_content(html, **_):
    """Show the roles of docstrings (``:func:`name```) as plain code."""
    return re.sub(r":(?:func|class|meth|mod|attr):(?=<code>)", "", html)


def relinked(text):
    """The text of a file in the root folder, with links relative to docs/."""
    text = text.replace("](docs/", "](")
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def options_page():
    """Every option of every script in tables, a group each; those that a class inherits are in its base's tables."""
    parts = [INTRODUCTION]
    for script, cls in options_classes().items():
        base = cls.__mro__[1]
        inherited = {f.name: f for f in dataclasses.fields(base)} if dataclasses.is_dataclass(base) else {}
        own = [f for f in dataclasses.fields(cls) if f is not inherited.get(f.name)]
        parts.append(f"## {script}\n" + ("\nBeside the options of `train.py`:\n" if inherited else ""))
        for option in own:
            if option.metadata["group"] or option is own[0]:
                parts.append(f"### {option.metadata['group'] or 'Main'}\n\n| option | default | |\n|---|---|---|")
            parts.append(row(option))
            if option is own[-1] or own[own.index(option) + 1].metadata["group"]:
                parts.append("")
    return "\n".join(parts)


def options_classes():
    """The options class of every script that has one, by the script's name."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return {script: getattr(importlib.import_module(module), name) for script, (module, name) in OPTIONS.items()}


def row(option):
    choices = option.metadata["choices"]
    meaning = option.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
    default = option.default
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    default = "" if default in (None, "") else f"`{default}`"
    for special, shown in (("|", "\\|"), ("*", "\\*"), ("<", "&lt;")):
        meaning = meaning.replace(special, shown)
    return f"| `--{option.name}` | {default} | {meaning} |"
