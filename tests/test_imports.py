"""The arrows of the architecture: which room may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "electra_jax"
# Every room by its height; an import goes down, or stays within its room (the base's files read each other).
HEIGHTS = {
    **dict.fromkeys(("config", "presets", "networks", "settings", "errors", "files"), 0),
    **dict.fromkeys(("model", "text", "training", "tasks"), 1),
    "interop": 2,
    "pretrain": 3,
    "finetune": 4,  # begins with what was pre-trained
    **dict.fromkeys(("scale", "research"), 5),
    "commands": 6,
    **dict.fromkeys(("cli", "__init__", "__main__"), 7),
}
STRANGERS = {"model", "text", "training", "tasks"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that a source names in an import, also one inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def wrong_arrows(room: str, source: str) -> list[str]:
    """The rooms that a source of `room` imports and must not."""
    rooms = {name.split(".")[1] for name in imported(source) if name.startswith("electra_jax.")} - {room}
    unknown = rooms - HEIGHTS.keys()
    assert not unknown, f"{room} imports {unknown}, which has no height: add it here"
    up = {other for other in rooms if HEIGHTS[other] > HEIGHTS[room]}
    return sorted(up | (rooms & STRANGERS if room in STRANGERS else set()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    assert wrong_arrows(room_of(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("config", "from electra_jax.model.inputs import Inputs"),
        ("model", "from electra_jax.training import state"),
        ("text", "import electra_jax.model.inputs"),
        ("training", "def f():\n    from electra_jax.pretrain.run import pretrain"),
        ("interop", "from electra_jax.pretrain.loading import load"),
        ("pretrain", "from electra_jax.finetune.run import finetune"),
        ("tasks", "from electra_jax.model.inputs import Inputs"),
        ("finetune", "from electra_jax import cli"),
    ],
)
def test_an_arrow_that_points_the_wrong_way_is_found(room, source):
    assert wrong_arrows(room, source)


def test_presets_import_the_settings_only():
    for file in (ROOT / "configs").glob("*.py"):
        ours = {name for name in imported(file.read_text(encoding="utf-8")) if name.startswith("electra_jax")}
        assert all(name.startswith("electra_jax.config.") for name in ours), file


@pytest.mark.parametrize(
    "file", [f for f in FILES if room_of(f) == "text" or HEIGHTS[room_of(f)] == 0], ids=lambda f: f.stem
)
def test_settings_and_text_need_no_jax(file):
    roots = {name.split(".")[0] for name in imported(file.read_text(encoding="utf-8"))}
    assert not roots & {"jax", "flax", "optax", "orbax"}
