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

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # MkDocs runs this file from elsewhere

from mindcv_models.options import titled_fields  # noqa: E402

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Where the class of each script's options is; three scripts have those of the model's task.
OPTIONS = {
    **{
        f"{script}.py{models}": (f"mindcv_models.{task}.options", f"{script.title()}Options")
        for task, models in (("classification", ""), ("detection", ": detectors"), ("segmentation", ": segmenters"))
        for script in ("train", "validate", "infer")
    },
    "export.py": ("mindcv_models.classification.export", "ExportOptions"),
    "export.py: detectors": ("mindcv_models.detection.export", "ExportOptions"),
    "export.py: segmenters": ("mindcv_models.segmentation.export", "ExportOptions"),
    "serve.py": ("mindcv_models.serving.options", "ServeOptions"),
    "convert_torch_weights.py": ("convert_torch_weights", "ConvertOptions"),
    "benchmark.py": ("benchmark", "BenchmarkOptions"),
}
INTRODUCTION = """# Options

What `--help` prints, from the same definitions. A value comes from the command line, else from the YAML file that
`--config` names, else from the default. `train.py`, `validate.py` and `infer.py` read YAML files; the others have few
options and take them from the command line alone. Which options these three have depends on the task of `--model`:
`python train.py --model retinanet --help` prints those of a detector.

A script refuses options that it does not use. The YAML files of a task are shared, so each of the three scripts passes
over the keys that only another one uses.
"""


def on_files(files, config):
    """Add the generated pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=relinked((ROOT / source).read_text(encoding="utf-8"))))
    files.append(File.generated(config, "options.md", content=options_page()))
    return files


def on_page_content(html, **_):
    """Show the roles of docstrings (``:func:`name```) as plain code."""
    return re.sub(r":(?:func|class|meth|mod|attr):(?=<code>)", "", html)


@event_priority(-100)  # after the plugin that writes the index
def on_post_build(config):
    """Write the search index as a script too: a page that is opened from a folder may load nothing else."""
    folder = Path(config.site_dir, "search")
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def relinked(text):
    """The text of a file in the root folder, with links relative to docs/."""
    text = text.replace("](docs/", "](")
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def options_page():
    """Every option of every script in tables, a group each; options that are in an earlier script's are named only."""
    parts, shown = [INTRODUCTION], {}
    for script, cls in options_classes().items():
        parts.append(f"## {script}\n")
        titled = titled_fields(cls)
        known = [f.name for group in titled.values() for f in group if shown.get(f.name) is f]
        if known:
            parts.append("Described above: " + ", ".join(f"`--{name}`" for name in known) + ".\n")
        for title, group in titled.items():
            own = [f for f in group if f.name not in known]
            if own:
                parts += [f"### {title}\n\n| option | default | |\n|---|---|---|", *map(row, own), ""]
        shown = {**{f.name: f for f in dataclasses.fields(cls)}, **shown}
    return "\n".join(parts)


def options_classes():
    """The options class of every script that has one, by the script's name."""
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
