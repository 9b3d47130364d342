"""The documentation: command lines parse, Python blocks are right, links lead somewhere, and the pages are built."""

import argparse
import ast
import contextlib
import importlib.util
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from markdown.extensions.toc import slugify
from mindspore.parallel.cluster.run import get_args as msrun_arguments
from mkdocs.commands.build import build
from mkdocs.config import load_config

from mindcv_models.errors import InputError
from mindcv_models.options import peek
from tests.helpers.scripts import MINDCV_RECIPE
from tools import docs_pages

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "configs").glob("*/*.yaml"))
# Pages that exist in the site alone.
MADE = {ROOT / "docs" / "options.md", *(ROOT / "docs" / page for page in docs_pages.PAGES.values())}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is no option of a script's: Python's, pip's, and msrun's.
OTHER_OPTIONS = {"help", "config", "strict", "oversubscribe", "hostfile"}


class ParsedError(Exception):
    """Raised in place of what a script does after parsing its command line."""


def name_of(path):
    return str(path.relative_to(ROOT))


def fences(text, language):
    return [body for kind, body in FENCE.findall(text) if kind == language]


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands_in(text):
    """Command lines of blocks and of inline code that start a Python script."""
    lines = "".join(fences(text, "")).replace("\\\n", " ").splitlines() + inline_code(text)
    return [line.strip() for line in lines if re.match(r"\s*(python|mpirun|msrun) .*\.py\b", line)]


def commands_of_recipe(text):
    """The commands after ``# Run:`` in a recipe; a line that starts no command goes on with the one before."""
    lines = re.search(r"^# Run:(.*?)^# Run here:", text, re.MULTILINE | re.DOTALL)[1].replace("#", "").splitlines()
    commands = []
    for line in map(str.strip, lines):
        if re.match(r"(python|mpirun|msrun) ", line):
            commands.append(line)
        elif line:
            commands[-1] += f" {line}"
    return commands


@contextlib.contextmanager
def stopped_after_parsing(module):
    """Within it, the script ``module`` raises ParsedError when it has parsed its command line."""

    def stopping(parse=None):
        def parse_and_stop(*args, **kwargs):
            if parse:
                parse(*args, **kwargs)
            raise ParsedError

        return parse_and_stop

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(module, "parse"):
            patch.setattr(module, "parse", stopping(module.parse))
        if hasattr(module, "read_run"):  # it takes a folder alone
            patch.setattr(module, "read_run", stopping())
        patch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))
        yield


def check_command(line, tmp_path):
    """Raise what a script would on parsing ``line``, or AssertionError where the line cannot be meant."""
    words = shlex.split(line, comments=True)
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script = words[at]
    assert (ROOT / script).is_file(), f"no script {script}"
    assert words[0] == "msrun" or words[at - 1] == "python", "start the script with python"
    if words[0] == "msrun":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [word.replace("=RANK", "=0") for word in words])
            assert msrun_arguments().task_script in (script, "python")
    if script.startswith("tests/"):  # takes a folder and names
        return
    module = importlib.import_module(script[:-3].replace("/", "."))
    with stopped_after_parsing(module), pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *(real_path(word, tmp_path) for word in words[at + 1 :])])
        try:
            module.main()
        except ParsedError:
            return
        except SystemExit as end:
            assert end.code == 0  # --help
            return
        raise AssertionError(f"{script} parsed nothing")


def real_path(word, tmp_path):
    """What a word of a command stands for, if it is a file that is not there before the command before it was run."""
    if word == "CONFIG":
        return str(RECIPES[0])
    if word.startswith("mindcv/configs/"):
        (tmp_path / "mindcv.yaml").write_text(MINDCV_RECIPE)
        return str(tmp_path / "mindcv.yaml")
    run, _, file = word.rpartition("/")
    if not run.startswith("outputs/"):
        return word
    recipe = recipes_by_folder()[run]
    model = peek("model", ["--config", str(recipe)])
    assert file in ("config.yaml", f"{model}_best.ckpt", f"{model}_last.ckpt"), f"no run of {recipe} leaves {file}"
    return str(recipe) if file == "config.yaml" else word


def recipes_by_folder():
    values = {path: yaml.safe_load(path.read_text()) for path in RECIPES}
    return {keys["ckpt_save_dir"]: path for path, keys in values.items() if "ckpt_save_dir" in keys}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_parses(page, tmp_path):
    for line in commands_in(page.read_text()):
        try:
            check_command(line, tmp_path)
        except (InputError, AssertionError, KeyError) as error:
            raise AssertionError(f"{name_of(page)}: {line}\n{error!r}") from error


def test_the_pages_show_every_script():
    shown = {word for page in PAGES for line in commands_in(page.read_text()) for word in line.split()}
    shared = {f"tools/{name}.py" for name in ("dense", "docs_pages", "pytorch_peer", "turns")}
    tools = {name_of(path) for path in ROOT.glob("tools/*.py")} - shared
    scripts = {path.name for path in ROOT.glob("*.py")} - {"prologue.py"}  # which scripts import
    assert scripts | tools <= shown
    assert sum(len(commands_in(page.read_text())) for page in PAGES) > 30


def test_every_recipes_command_parses_and_names_the_recipe(tmp_path):
    for recipe in RECIPES:
        commands = commands_of_recipe(recipe.read_text())
        assert commands, recipe
        for line in commands:
            check_command(line, tmp_path)
            assert name_of(recipe) in line


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("python train.py --confg configs/fastvit/fastvit_t8_digits.yaml", "unknown option --confg"),
        ("python train.py --config configs/fastvit/none.yaml", "cannot read the configuration"),
        ("mpirun -n 2 python train.py --opt adamq", "adamq"),
        ("msrun --worker_num=2 --local_worker_num=2 train.py --epoch_size ten", "epoch_size is 'ten'"),
        ("python validate.py --tta flop", "flop"),
        ("python export.py --crop_pct most", "crop_pct is 'most'"),
        ("python tools/data_benchmark.py --rounds many", "rounds is 'many'"),
        ("python trian.py --lr 1", "no script trian.py"),
        ("./train.py --lr 1", "start the script with python"),
        ("python validate.py -c outputs/fastvit_t8/config.yml", "no run of"),
        ("python validate.py -c outputs/nothing/config.yaml", "outputs/nothing"),
    ],
)
def test_a_wrong_command_line_is_found(line, complaint, tmp_path):
    with pytest.raises((InputError, AssertionError, KeyError)) as caught:
        check_command(line, tmp_path)
    assert complaint in str(caught.value)


def known_options():
    parsers = [names for cls in docs_pages.options_classes().values() for names in cls.__dataclass_fields__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["msrun", "train.py"])
        return {*parsers, *vars(msrun_arguments()), *OTHER_OPTIONS}


def test_every_option_for_a_file_or_folder_knows_the_home_folder():
    named = re.compile(
        r"_(dir|path|file)$|^(output|csv|plot|verify|cam|resume|results|save_results|class_names|images)$"
    )
    found = set()
    for cls in docs_pages.options_classes().values():
        for name, f in cls.__dataclass_fields__.items():
            if named.search(name):
                assert f.metadata["path"] or "Path" in str(f.type), f"{cls.__name__}.{name}"
                found.add(name)
    assert {"data_dir", "ckpt_path", "teacher_path", "backbone_path", "report_dir", "output", "images"} <= found


def test_options_in_the_text_exist():
    known = known_options()
    for page in PAGES:
        for code in inline_code(page.read_text()):
            for name in re.findall(r"(?<!\S)--([a-z0-9_]+)(?![\w-])", code):
                assert name in known, f"{name_of(page)}: `{code}`"


def test_every_script_of_options_has_its_tables():
    page = docs_pages.options_page()
    for script, cls in docs_pages.options_classes().items():
        assert f"## {script}\n" in page
        for name in cls.__dataclass_fields__:
            assert f"| `--{name}` |" in page or f"`--{name}`" in page.split(f"## {script}\n")[1].split("\n\n")[1]
    fields = {id(cls.__dataclass_fields__["lr"]) for cls in docs_pages.options_classes().values() if hasattr(cls, "lr")}
    assert page.count("| `--lr` |") == len(fields) == 1  # a table has it once, for every task
    assert "| `--scale` | `0.08 1.0` | random crop: smallest and largest share of the area |" in page
    assert "| `--opt` | `adam` | optimizer (sgd, momentum," in page


def test_makefile_targets_and_requirements_in_the_text_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        for code in [*inline_code(text), *"".join(fences(text, "")).splitlines()]:
            made = re.match(r"make ([\w-]+)", code)
            assert made is None or made[1] in targets, f"{name_of(page)}: {code}"
            for file in re.findall(r"\b(?:requirements[\w-]*\.txt|(?<!/)(?:configs|tests|tools)/[\w/]+\.\w+)", code):
                assert (ROOT / file).is_file(), f"{name_of(page)}: {code}"


PYTHON = [(page, number, code) for page in PAGES for number, code in enumerate(fences(page.read_text(), "python"), 1)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("page", "number", "code"), PYTHON, ids=[f"{name_of(page)}-{number}" for page, number, _ in PYTHON]
)
def test_python_blocks(page, number, code, tmp_path, monkeypatch):
    """Each compiles, imports what exists, and runs, unless it reads a file or downloads one."""
    tree = ast.parse(code)
    for name in names_of_this_project(tree):
        assert exists(name), f"{name_of(page)}, block {number}: {name}"
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    if "pretrained=True" not in code and not any(re.search(r"\.[a-z]{2,}$", text) for text in strings):
        monkeypatch.chdir(tmp_path)
        file = tmp_path / f"{page.stem.replace('-', '_')}_{number}.py"
        file.write_text(code)  # MindSpore compiles a graph from the file that a cell is in
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)


def names_of_this_project(tree):
    """Full names that a block imports from this project, or takes from its modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mindcv_models"))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("mindcv_models"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("mindcv_models."):
            yield ast.unparse(node)


def exists(name):
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
        return True
    except ImportError:
        return bool(module) and exists(module) and hasattr(importlib.import_module(module), attribute)


def test_a_wrong_import_is_found():
    code = "import mindcv_models\nfrom mindcv_models.models.litv2 import HiLow\nmindcv_models.models.fastvit.FastViT"
    assert [n for n in names_of_this_project(ast.parse(code)) if not exists(n)] == ["mindcv_models.models.litv2.HiLow"]


def broken_links(path, text):
    """Relative links of a page that lead nowhere, anchors included."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / unquote(file)).resolve() if file else path
        if there in MADE and not anchor:
            continue
        if not there.is_file() or (anchor and anchor not in anchors(text if there == path else there.read_text())):
            yield target


def anchors(text):
    return {slugify(title, "-") for title in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    assert list(broken_links(page, page.read_text())) == []


def test_a_broken_link_is_found():
    text = "# A title\n[a](#a-title) [b](#other) [c](docs/none.md) [d](docs/install.md#here) [e](docs/options.md)"
    assert list(broken_links(ROOT / "README.md", text)) == ["#other", "docs/none.md", "docs/install.md#here"]


class Links(HTMLParser):
    """The links and the anchors of a built page, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.loaded = [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id") or "")
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values["href"])
        if tag in ("script", "img") and values.get("src"):
            self.loaded.append(values["src"])


@pytest.mark.process
def test_the_site_is_built_and_hangs_together(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    pages = {path.resolve(): Links(path.read_text()) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        assert [address for address in page.loaded if address.startswith(("http:", "https:", "//"))] == []
        if path.name == "404.html":  # its links are those of a server's root
            continue
        for link in [*page.links, *page.loaded]:
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = link.partition("#")
            there = (path.parent / unquote(file)).resolve() if file else path
            assert there.is_file(), f"{path.name}: {link}"
            assert there not in pages or unquote(anchor) in pages[there].anchors, f"{path.name}: {link}"
    assert "folder_search.js" in pages[(tmp_path / "index.html").resolve()].loaded
    assert json.loads((tmp_path / "search" / "search_index.js").read_text().removeprefix("var __index = "))["docs"]
    api = (tmp_path / "api" / "models.html").read_text()
    assert "structural reparameterization" in api.lower() and ":func:" not in api
