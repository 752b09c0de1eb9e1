"""What every test runs under: shapes enforced, four CPU devices, no accelerator unless the test is marked `gpu`."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# The GPU checks choose their platform themselves; everything else is exact arithmetic on the CPU.
# On their machine beartype may be missing, too.
if "ELECTRA_JAX_GPU_CHECKS" not in os.environ:
    os.environ["JAX_PLATFORMS"] = "cpu"

    from jaxtyping import install_import_hook

    # Not over config.py: settings check their own types, and the tests want to see them do it.
    ROOMS = ("model", "text", "training", "tasks", "pretrain", "interop", "finetune", "scale")
    install_import_hook([f"electra_jax.{room}" for room in ROOMS], "beartype.beartype")

import jax

jax.config.update("jax_num_cpu_devices", 4)

# A shell's background job is born deaf to Ctrl-C, and so would be every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from runs import SmallRun, end_what_is_left, make_small_run  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that no worker is left alone with one of them at the end."""
    longest = ("test_processes.py", "test_kills.py", "test_finetune_run.py", "test_scripts.py", "test_faults.py")
    longest += ("test_launch.py", "test_warm_start.py", "test_cli_plan.py", "test_plan.py", "test_mixed_precision.py")
    order = {name: at for at, name in enumerate(longest)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def no_process_stays_behind() -> Iterator[None]:
    """Where a test fails, what it started ends with it."""
    yield
    end_what_is_left()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A small data set and a run trained on it for a moment; copy what a test changes."""
    return make_small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's own data, where it is there; each test on it has a twin that needs nothing."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ["ELECTRA_JAX_SHARED"]) if "ELECTRA_JAX_SHARED" in os.environ else beside
    if not folder.is_dir():
        pytest.skip("shared data is not here")
    return folder
