"""`electra-jax plan`: its figures against what is really used, its words, and a TPU slice where libtpu is."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import CONFIGS, SmallRun, compiled_before, electra_jax, pretrain_args, quick_environment
from tiny_models import make_config

from electra_jax import cli

STEPS = """
import ctypes, dataclasses, json, re, sys
from pathlib import Path
from electra_jax.training.host import tune_for_cpu
tune_for_cpu()
import jax, numpy as np
from electra_jax.config import read_config
from electra_jax.pretrain.run import lower_step, make_step, plan_state
from electra_jax.scale.plan import SPECIAL, compile_step, create_mesh
from electra_jax.scale.target import devices_here
from electra_jax.text.rows import row_dtype
from electra_jax.training.sharding import place_batch

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

config, here = read_config(Path(sys.argv[1])), devices_here("float32")
planned = compile_step(config, here)
mesh = create_mesh(config, here)
fresh, wanted = plan_state(config, mesh)
dtype = row_dtype(config.model.vocab_size)
step = lower_step(make_step(config, mesh, SPECIAL), config, wanted, mesh, dtype).compile()
draw = jax.jit(fresh, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wanted)).lower().compile()
# What compiling left behind goes back to the kernel, which then counts from here.
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
state = draw()
ids = np.random.default_rng(0).integers(4, config.model.vocab_size, (config.train.batch_size, config.data.length))
for _ in range(4):
    state, out = step(state, place_batch(ids.astype(dtype), mesh))
    jax.block_until_ready(out)
print(json.dumps({"used": peak() - before, "planned": planned.memory._asdict(), "skipped": int(out["skipped"])}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's count is Linux's")
def test_what_is_planned_for_a_cpu_is_what_steps_then_use(tmp_path):
    """Growth of a process's peak over four steps, against the plan's figure: asked for is 10%, it is some 8% here.

    With 64 rows it is 9 to 10%: 15 MB of it do not depend on the step's size.
    """
    sizes = {"vocab_size": 2000, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    config = make_config(
        model=sizes | {"max_position_embeddings": 128},
        data={"length": 128},
        train={"batch_size": 112},
        runtime={"unroll_layers": True},
    )
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(dataclasses.asdict(config)))
    env = {**os.environ, **compiled_before()}
    done = subprocess.run([sys.executable, "-c", STEPS, settings], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    planned = sum(told["planned"].values())
    assert planned > 300e6
    assert told["skipped"] == 0
    assert told["used"] == pytest.approx(planned, rel=0.1)


# In a small process between, because a child's peak counts from what its parent held when it was forked.
PEAK = """
import resource, subprocess, sys
command = [sys.executable, "-c", "from electra_jax.cli import entry; entry()", *sys.argv[1:]]
done = subprocess.run(command, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's count is Linux's")
def test_what_is_planned_for_the_process_is_what_pretrain_then_peaks_at(small_run: SmallRun, tmp_path: Path):
    sizes = ["--model.hidden-size", "256", "--model.intermediate-size", "1024", "--train.batch-size", "256"]
    args = pretrain_args(small_run.data, tmp_path / "run", *sizes, "--train.steps", "4")
    alone = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # what compiling leaves behind is part of both
    env = quick_environment(**alone)
    done = subprocess.run([sys.executable, "-c", PEAK, *args], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    asked = ["plan", *without(args[1:], "--data", "--workdir"), "--json"]
    told = json.loads(electra_jax(*asked, check=True, **alone).stdout)
    assert told["bytes"]["total"] > 200e6
    assert told["process"] == pytest.approx(int(done.stdout), rel=0.1)


def without(args: list[str], *names: str) -> list[str]:
    """The arguments less those options and their values."""
    kept = list(args)
    for name in names:
        at = kept.index(name)
        del kept[at : at + 2]
    return kept


def plan_args(small_run: SmallRun, *more: str) -> list[str]:
    """The small run's settings, planned."""
    return ["plan", *without(pretrain_args(small_run.data, small_run.run)[1:], "--data", "--workdir"), *more]


def test_a_plan_in_words(small_run):
    done = electra_jax(*plan_args(small_run, "--memory-gib", "0.003"), check=True)
    said, told = done.stdout.decode(), done.stderr.decode()
    assert "here: 1 × cpu, 1 host" in told
    assert "too much" in told
    assert "trying --runtime." in told
    assert "As it is, the step does not fit. It does with --runtime." in said
    assert "state: parameters and moments" in said
    assert "together, of 3 MiB" in said
    assert "16 × 32 = 512 tokens a step" in said
    assert "at 40% MFU" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--topology", "v5e:3x"], "there is no TPU slice 'v5e:3x'"),
        (["--topology", "v9:2x2"], "there is no TPU slice 'v9:2x2'"),
        (["--topology", "local"], "without it, the devices at hand"),
        (["--topology", "v5e:32x32"], "v5e:2x2 to v5e:16x16"),
        (["--topology", "v5p:4x4"], "three sizes as in v5p:8x8x8"),
        (["--memory-gib", "0"], "--memory-gib must be above 0"),
        (["--runtime.mesh.data", "3"], "needs 3 devices, but there are 4"),
        (["--train.batch-size", "6"], "a batch of 6 rows (per micro-batch and chunk) cannot be spread over 4"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, args, words):
    assert cli.main(["plan", "--config", str(CONFIGS / "tiny.py"), *args]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]
    assert len([line for line in said if line.startswith("electra-jax:")]) == 1


PLAIN = {"XLA_FLAGS": ""}  # libtpu ends where the CPU's compiler has settings that it does not know
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_the_compiler_for_tpus_its_installation_is_named(capsys):
    assert cli.main(["plan", "--config", str(CONFIGS / "tiny.py"), "--topology", "v5e:2x2"]) == 2
    assert "pip install -c constraints.txt -e '.[tpu-plan]'" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the extra [tpu-plan]")
def test_a_slice_that_is_not_here(small_run):
    args = plan_args(small_run, "--topology", "v5e:2x2", "--json")
    told = json.loads(electra_jax(*args, check=True, **PLAIN).stdout)
    assert (told["devices"], told["kind"], told["hosts"]) == (4, "TPU v5 lite", 1)
    assert told["fits"]
    assert told["memory"] == 15.75 * 2**30
    assert told["peak_per_device"] == 197e12
    assert told["collectives"]["all-reduce"]["bytes"] > 0
    assert 0 < told["bytes"]["state"] < told["bytes"]["total"]


TOO_LARGE = """
import dataclasses, json, sys
from pathlib import Path
import jax
from electra_jax.presets import load_preset
from electra_jax.scale.plan import compile_step
from electra_jax.scale.target import devices_of_slice

jax.config.update("jax_platforms", "cpu")
config = load_preset(Path(sys.argv[1]))
config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, unroll_layers=False))
done = compile_step(config, devices_of_slice("v5e:2x2", "float32"))
print(json.dumps({"fits": done.fits(None), "needed": done.needed}))
"""


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the extra [tpu-plan]")
def test_what_the_compiler_says_of_a_step_that_is_too_large_is_understood():
    """Base with 64 rows a chip, in its own words: a form of them that is no longer read would show here."""
    env = {**os.environ, **PLAIN}
    done = subprocess.run([sys.executable, "-c", TOO_LARGE, CONFIGS / "base.py"], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["fits"]
    assert 20 * 2**30 < told["needed"] < 100 * 2**30


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the extra [tpu-plan]")
def test_a_slice_that_libtpu_refuses(small_run):
    done = electra_jax(*plan_args(small_run, "--topology", "v5e:3x3"), **PLAIN)
    assert done.returncode == 2
    assert b"libtpu knows no TPU slice 'v5e:3x3'" in done.stderr
