"""A small data set and a small run that was really trained, for tests of what is done with one."""

import atexit
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tiny_models import quick_options

VOCAB_SIZE, LENGTH, STEPS = 128, 32, 30
CONFIGS = Path(__file__).parents[1] / "configs"
PEOPLE = "the chef|a young cook|my best friend|the old sailor|our teacher|a small child|the village doctor|her brother|"
PEOPLE += "the last king|some farmers|two neighbours|the quiet painter"
DEEDS = "ate|cooked|found|sold|carried|liked|watched|painted|wanted|cleaned|forgot|remembered|described|borrowed"
THINGS = "the meal|a red apple|the wooden boat|fresh bread|an old book|the green door|a white horse|the long letter|"
THINGS += "seven fish|the big house|a broken clock|their garden|the morning paper|a heavy basket"
TIMES = "in the morning|at night|near the river|with great care|after dinner|before the storm|every day|on the hill|"
TIMES += "without a word|during the summer|because of the rain|under the bridge"

# A vocabulary needs more words than that: names of places.
HEADS, TAILS = "mar tel dor win sal bren hol fen cas rud lim gor", "by ton ham mouth ford ley wick stead"
PLACES = [head + tail for head in HEADS.split() for tail in TAILS.split()]


STARTED: list[subprocess.Popen[bytes]] = []


class SmallRun(NamedTuple):
    run: Path
    data: Path
    corpus: Path


def write_corpus(path: Path, documents: int = 300, seed: int = 0) -> Path:
    """Documents of made sentences, which a small vocabulary covers and a small model begins to learn."""
    draw = random.Random(seed)
    parts = [words.split("|") for words in (PEOPLE, DEEDS, THINGS, TIMES)]

    def sentence() -> str:
        return f"{' '.join(map(draw.choice, parts)).capitalize()} in {draw.choice(PLACES)}."

    text = "\n\n".join("\n".join(sentence() for _ in range(6)) for _ in range(documents)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def prepare_args(corpus: Path, out: Path) -> list[str]:
    """The command that makes the small data set."""
    sizes = ["--length", str(LENGTH), "--vocab-size", str(VOCAB_SIZE), "--valid-share", "0.1", "--workers", "1"]
    return ["prepare", "--corpus", str(corpus), "--out", str(out), *sizes]


def pretrain_args(data: Path, run: Path, *more: str) -> list[str]:
    """The command that trains the small run: the tiny preset, for a moment, on little data."""
    args = ["pretrain", "--config", str(CONFIGS / "tiny.py"), "--data", str(data), "--workdir", str(run)]
    sizes = {
        "model.vocab-size": VOCAB_SIZE,
        "model.embedding-size": 16,
        "model.hidden-size": 32,
        "model.num-hidden-layers": 2,
        "model.intermediate-size": 64,
        "data.length": LENGTH,
        "optimizer.warmup-steps": 3,
        "optimizer.name": "adam",
        "train.batch-size": 16,
        "train.steps": STEPS,
        "runtime.log-every": 5,
        "runtime.eval-every": 10,
        "runtime.eval-rows": 48,
        "runtime.save-every": 10,
        "runtime.peak-tflops": 0.1,
    }
    return [
        *args,
        *(part for name, value in sizes.items() for part in (f"--{name}", str(value))),
        "--runtime.no-unroll-layers",
        *more,
    ]


def start(*args: str | Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts the command in a process of its own, as a user does, on one CPU device and outside a terminal."""
    command = [sys.executable, "-c", "from electra_jax.cli import entry; entry()", *map(str, args)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=quick_environment(**environment))
    STARTED.append(process)
    return process


def end_what_is_left() -> None:
    """Kills what `start` started and a test that failed did not end, and closes its pipes."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def quick_environment(**more: str) -> dict[str, str]:
    """What is computed is the same without the compiler's expensive passes, and is there in half the time."""
    quick = " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick, **compiled_before(), **more}


def start_together(count: int, devices: int, *args: str | Path, **environment: str) -> list[subprocess.Popen[bytes]]:
    """Starts the command in several processes that are one run, each with so many CPU devices."""
    return [start(*args, **about, **environment) for about in joined_by_hand(count, devices)]


def joined_by_hand(count: int, devices: int) -> list[dict[str, str]]:
    """For each of several processes the environment by which they find each other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    about = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_NUM_CPU_DEVICES": str(devices)}
    return [{**about, "JAX_PROCESS_ID": str(index)} for index in range(count)]


@cache
def compiled_before() -> dict[str, str]:
    """The environment in which a process finds what one before it compiled: the tests start many that compile alike."""
    folder = tempfile.mkdtemp(prefix="electra-jax-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def electra_jax(
    *args: str | Path, stdin: bytes = b"", check: bool = False, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs the command to its end."""
    process = start(*args, **environment)
    output, errors = process.communicate(stdin, timeout=300)
    if check and process.returncode:
        raise AssertionError(f"electra-jax {' '.join(map(str, args))} ended with {process.returncode}: {errors!r}")
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def make_small_run(folder: Path, *more: str) -> SmallRun:
    """Prepares and trains in processes of their own."""
    made = SmallRun(folder / "run", folder / "data", write_corpus(folder / "corpus.txt"))
    electra_jax(*prepare_args(made.corpus, made.data), check=True)
    electra_jax(*pretrain_args(made.data, made.run, *more), check=True)
    return made
