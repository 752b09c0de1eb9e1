"""The scripts, as they are typed."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_gpu_checks_without_an_accelerator_say_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_checks.sh", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert "jax sees no accelerator here" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_gpu_checks_run_dry_from_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_checks.sh", "--dry", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["dry"]
    assert [check["passed"] for check in results["checks"]] == [True] * len(results["checks"])
    assert results["checks"][-1]["figures"]["step"] > 0
    assert "resumed" in [check["title"] for check in results["checks"]]
    assert "dry run" in (tmp_path / "results.md").read_text()
