"""The embedded corpus: docstrings of the standard library and the installed packages.

Harvested with `ast` from the source files; nothing is imported or executed.
"""

import ast
import functools
import gc
import importlib.metadata
import inspect
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Characters. This project with what it requires comes to about as much. Its own requirements go first, so that
# whatever else is installed hardly changes the corpus, and a machine with everything does not take minutes.
MAX_TEXT = 14_000_000
MIN_WORDS = 4  # "Returns self." teaches nothing about language
# Examples of how to use a thing, and the names of its arguments, are lines of their own.
_STARTS_LINE = re.compile(r"\s*([-*+•]\s|\d+[.)]\s|>>>|\.\.\.|:\w+|\.\. |@\w+|\w[\w, .*]*\s?: )")
_RULE = re.compile(r"[\W_]*")  # ----, ====, ~~~~, and other lines without a letter


@functools.cache
def harvest() -> tuple[tuple[str, ...], Counter[str]]:
    """Every different docstring once, in a fixed order, with how many files could not be read and why."""
    found: dict[str, None] = {}
    unread: Counter[str] = Counter()
    size = 0
    with _no_collector():
        for path in _files():
            for text in _docstrings(path, unread):
                document = as_document(text)
                if document not in found and len(document.split()) >= MIN_WORDS:
                    found[document] = None
                    size += len(document)
            if size >= MAX_TEXT:
                break
    return tuple(found), unread


def as_document(docstring: str) -> str:
    """The lines of a docstring, hard-wrapped paragraphs joined into one line each, without blank lines."""
    lines: list[str] = []
    indent, open_paragraph = 0, False
    for line in inspect.cleandoc(docstring).expandtabs().split("\n"):
        text = line.strip()
        if _RULE.fullmatch(text):
            open_paragraph = False
            continue
        here = len(line) - len(line.lstrip())
        if open_paragraph and here == indent and not _STARTS_LINE.match(line):
            lines[-1] += " " + text
        else:
            lines.append(text)
        # What follows an indented example or a doctest is a paragraph of its own.
        indent, open_paragraph = here, not text.startswith((">>>", "..."))
    return "\n".join(lines)


def _docstrings(path: Path, unread: Counter[str]) -> Iterator[str]:
    try:
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return  # saves parsing a third of all files
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except OSError:
        unread["source file that cannot be opened"] += 1
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        unread["source file that does not parse"] += 1
        return
    for node in _definitions(tree):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str(text))), *_]:
                yield text.encode("utf-8", "replace").decode()  # an escape may spell half a surrogate pair


def _definitions(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The module, classes and functions, in the order of the source. Expressions are not searched."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for part in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, part, ()):
            if hasattr(child, "body"):
                yield from _definitions(child)


def _files() -> Iterator[Path]:
    standard = Path(sysconfig.get_paths()["stdlib"])
    for root, folders, names in os.walk(standard):
        folders[:] = sorted(n for n in folders if n not in ("site-packages", "dist-packages", "__pycache__"))
        yield from (Path(root, name) for name in sorted(names) if name.endswith(".py"))
    for distribution in _distributions():
        files = [str(file) for file in distribution.files or () if file.suffix == ".py"]
        yield from (Path(str(distribution.locate_file(file))) for file in sorted(files))


def _distributions() -> list[importlib.metadata.Distribution]:
    """What this project requires, by name; then whatever else is installed, by name."""
    installed: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        installed.setdefault(_plain(distribution.metadata["Name"] or ""), distribution)
    required: set[str] = set()
    waiting = ["electra-jax"]
    while waiting:
        name = waiting.pop()
        if name in required or name not in installed:
            continue
        required.add(name)
        for requirement in installed[name].requires or ():
            if "extra ==" not in requirement and "extra==" not in requirement:
                waiting.append(_plain(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]))
    return [installed[n] for n in sorted(required)] + [installed[n] for n in sorted(installed.keys() - required)]


@contextmanager
def _no_collector() -> Iterator[None]:
    """Syntax trees are large and without cycles: looking for garbage in them takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
