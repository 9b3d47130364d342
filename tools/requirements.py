"""Write the pinned requirements*.txt that ``[tool.requirements]`` of pyproject.toml lists.

python tools/requirements.py             pin what is installed here
python tools/requirements.py --check     write nothing; exit with status 1 if a file does not follow from pyproject.toml
"""

import argparse
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Callable, Dict, List

import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Written by tools/requirements.py from pyproject.toml: do not edit."


def stated(project: dict, file: str) -> Dict[str, Requirement]:
    """What ``file`` pins itself, by name: the dependencies and extras that ``[tool.requirements]`` gives it."""
    content = project["tool"]["requirements"][file]
    lines = project["project"]["dependencies"] if content.get("dependencies") else []
    for extra in content["extras"]:
        lines = [*lines, *project["project"]["optional-dependencies"][extra]]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def text(project: dict, file: str, version_of: Callable[[str], str]) -> str:
    """The content of ``file``; ``version_of`` gives a package's version."""
    includes = [f"-r {other}" for other in project["tool"]["requirements"][file].get("include", [])]
    # Without the local part: torch 2.13.0+cpu is 2.13.0 on PyPI.
    pins = [f"{name}=={version_of(name).split('+')[0]}" for name in stated(project, file)]
    return "\n".join([HEADER, *includes, *pins, ""])


def pins(file: str) -> Dict[str, str]:
    """The versions that ``file`` has now, by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))


def disagreements(project: dict) -> List[str]:
    """One line for each file that does not follow from pyproject.toml."""
    found = []
    for file in project["tool"]["requirements"]:
        own = pins(file)
        requirements = stated(project, file)
        if set(own) != set(requirements):
            found.append(f"{file}: {', '.join(sorted(set(own) ^ set(requirements)))} in one of the two only")
        elif (ROOT / file).read_text(encoding="utf-8") != text(project, file, own.get):
            found.append(f"{file}: differs in order or comments")
        for name in set(own) & set(requirements):
            if own[name] not in requirements[name].specifier:
                found.append(f"{file}: {name}=={own[name]} is outside of {requirements[name].specifier}")
    return found


def read_project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file does not follow")
    check = parser.parse_args().check
    project = read_project()
    if check:
        print("\n".join(disagreements(project)) or "requirements*.txt follow from pyproject.toml")
        return 1 if disagreements(project) else 0
    for file in project["tool"]["requirements"]:
        (ROOT / file).write_text(text(project, file, version), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
