"""The house: which way imports go, what the pure modules may import, and how long files are."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import tfalloc

PACKAGE = Path(tfalloc.__file__).parent
ORDER = [
    "data",
    "datasets",
    "mckp",
    "outcome",
    "gradients",
    "models",
    "baselines",
    "evaluation",
    "tuning",
    "export",
    "training",
    "scale",
    "reproduce",
    "cli",
]
PURE = {"mckp", "outcome", "gradients"}
IMPURE_IMPORTS = {"keras", "pandas", "pathlib", "io", "pyarrow"}
MAX_LINES = 650


def violations(files):
    """What breaks the rules in {path relative to the package: source}."""
    found = []
    for path, source in files.items():
        module = Path(path).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                if node.level:
                    found.append(f"{path}:{node.lineno} relative import")
                names = [node.module or ""]
                if node.module == "tfalloc":
                    names = [f"tfalloc.{alias.name}" for alias in node.names]
                if any(alias.name == "*" for alias in node.names):
                    found.append(f"{path}:{node.lineno} star import")
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                root, _, rest = name.partition(".")
                if module in PURE and root in IMPURE_IMPORTS:
                    found.append(f"{path}:{node.lineno} {module} is pure but imports {name}")
                target = rest.split(".")[0]
                if root != "tfalloc" or module not in ORDER or target not in ORDER:
                    continue
                if ORDER.index(target) > ORDER.index(module):
                    found.append(f"{path}:{node.lineno} {module} imports {target}")
        if len(source.splitlines()) > MAX_LINES:
            found.append(f"{path} has more than {MAX_LINES} lines")
    return found


def test_the_house_is_in_order():
    files = {
        str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert violations(files) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("mckp/path.py", "from tfalloc.outcome import curve"),
        ("outcome/curve.py", "from tfalloc import models"),
        ("gradients/nes.py", "import keras"),
        ("outcome/a.py", "import pandas as pd"),
        ("models/a.py", "from tfalloc.export import save"),
        ("models/a.py", "from .heads import Head"),
        ("cli/a.py", "from tfalloc.data import *"),
        ("cli/a.py", "\n" * (MAX_LINES + 1)),
    ],
)
def test_the_check_finds(path, source):
    assert violations({path: source})


def test_public_names_exist_and_are_documented():
    for name in tfalloc.__all__:
        member = getattr(tfalloc, name)
        if not inspect.ismodule(member):
            continue
        for public in member.__all__:
            thing = getattr(member, public)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert inspect.getdoc(thing), f"{name}.{public} has no docstring"


def test_every_package_lists_its_public_names():
    for name in ORDER:
        if (PACKAGE / name).is_dir():
            assert importlib.import_module(f"tfalloc.{name}").__all__
