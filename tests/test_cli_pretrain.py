"""What a user may get wrong with `pretrain`: one clear sentence, the right exit code, nothing written."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from runs import SmallRun, electra_jax, pretrain_args

from electra_jax import cli


def assert_refused(args: list[str], words: str, workdir: Path, code: int = 2, **environment: str) -> None:
    done = electra_jax(*args, **environment)
    said = " ".join(done.stderr.decode().replace("│", " ").split())
    assert done.returncode == code, said
    assert words in said
    assert "Traceback" not in said
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("optimizer.learning-rate", "-0.1", "learning_rate must be above 0, not -0.1"),
        ("optimizer.learning-rate", "fast", "could not convert string to float"),
        ("optimizer.lerning-rate", "0.1", "--optimizer.learning-rate"),
        ("objective.mask-prob", "1.5", "mask_prob must be in (0, 1), not 1.5"),
        ("model.num-attention-heads", "5", "hidden_size 32 cannot be divided among 5 attention heads"),
        ("model.embedding-sharing", "all", "one optimizer per network needs embedding_sharing none or gdes"),
        ("model.type-vocab-size", "1", "type_vocab_size must be at least 2, not 1"),
        ("train.batch-size", "0", "batch_size must be at least 1"),
        ("runtime.micro-batches", "3", "cannot be cut into 3 micro-batches"),
        ("runtime.mesh.data", "3", "needs 3 devices, but there are 1"),
        ("data.length", "64", "rows have 32 tokens, but data.length is 64"),
        ("model.vocab-size", "30522", "--model.vocab-size 128"),
    ],
)
def test_a_wrong_setting(small_run: SmallRun, tmp_path: Path, setting: str, value: str, words: str) -> None:
    workdir = tmp_path / "run"
    assert_refused(pretrain_args(small_run.data, workdir, f"--{setting}", value), words, workdir)


def test_attention_that_cannot_drop_out(small_run: SmallRun, tmp_path: Path) -> None:
    more = ("--runtime.attention", "xla", "--model.attention-probs-dropout-prob", "0.1")
    args = pretrain_args(small_run.data, tmp_path / "run", *more)
    assert_refused(args, "attention xla has no dropout", tmp_path / "run")


@pytest.mark.parametrize("setting", ["micro-batches", "vocab-chunks"])
def test_parts_of_a_batch_that_leave_a_device_without_rows(small_run: SmallRun, tmp_path: Path, setting: str) -> None:
    args = pretrain_args(small_run.data, tmp_path / "run", f"--runtime.{setting}", "8")
    words = "a batch of 2 rows (per micro-batch and chunk) cannot be spread over 4 devices"
    assert_refused(args, words, tmp_path / "run", JAX_NUM_CPU_DEVICES="4")


def test_attention_that_this_machine_does_not_have(small_run: SmallRun, tmp_path: Path) -> None:
    more = ("--runtime.attention", "cudnn", "--model.attention-probs-dropout-prob", "0")
    args = pretrain_args(small_run.data, tmp_path / "run", *more)
    assert_refused(args, "attention cudnn computes on a GPU alone, not on a CPU", tmp_path / "run")


def test_a_run_says_how_attention_is_computed(small_run: SmallRun, tmp_path: Path) -> None:
    args = pretrain_args(small_run.data, tmp_path / "run", "--train.steps", "4", "--optimizer.warmup-steps", "2")
    said = electra_jax(*args, "--model.attention-probs-dropout-prob", "0.1", check=True).stdout.decode()
    assert said.count("attention: einsum in training (dropout 0.1 on the probabilities, which xla, cudnn and ") == 1
    assert "flash do not have), xla in evaluation\n" in said


def test_what_flash_trained_is_read_where_there_is_no_tpu(small_run: SmallRun, tmp_path: Path) -> None:
    """On a CPU flash is interpreted for who asks for it; the run's use then goes by what every platform has."""
    run = tmp_path / "run"
    args = pretrain_args(small_run.data, run, "--train.steps", "4", "--optimizer.warmup-steps", "2")
    args += ["--model.attention-probs-dropout-prob", "0", "--runtime.attention", "flash"]
    assert "attention: flash in training and evaluation (asked for)\n" in electra_jax(*args, check=True).stdout.decode()
    electra_jax("detect", "--run", run, "the chef ate the meal", check=True)


def test_an_unknown_preset_names_the_known_ones(small_run: SmallRun, tmp_path: Path) -> None:
    configs = Path(__file__).parents[1] / "configs"
    args = ["pretrain", "--config", str(configs / "huge.py"), "--data", str(small_run.data)]
    workdir = tmp_path / "run"
    assert_refused([*args, "--workdir", str(workdir)], "base, large, small, small_plus_plus, tiny", workdir)


def test_what_was_compiled_is_kept_for_the_next_run(small_run: SmallRun, tmp_path: Path) -> None:
    def detect(**environment: str) -> None:
        args = ("detect", "--run", str(small_run.run), "--json", "The chef ate the meal.")
        electra_jax(*args, check=True, JAX_COMPILATION_CACHE_DIR="", **environment)

    detect(XDG_CACHE_HOME=str(tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "electra_jax" / "compiled").glob("*-cache")}
    assert kept
    detect(XDG_CACHE_HOME=str(tmp_path))
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "electra_jax" / "compiled").glob("*-cache")}
    detect(XDG_CACHE_HOME="/dev/null")  # no place to keep it: nothing is said


def test_no_preset_and_no_command() -> None:
    assert "needs --config" in electra_jax("pretrain").stderr.decode()
    assert "there is no command 'train'" in electra_jax("train").stderr.decode()


def test_no_data_set(small_run: SmallRun, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    assert_refused(pretrain_args(tmp_path / "nowhere", workdir), "is not a data set", workdir)
    assert_refused(pretrain_args(small_run.run, workdir), "is not a data set", workdir)
    assert_refused(pretrain_args(small_run.corpus, workdir), "is not a data set", workdir)


def test_no_such_device(small_run: SmallRun, tmp_path: Path) -> None:
    done = electra_jax(*pretrain_args(small_run.data, tmp_path / "run"), JAX_PLATFORMS="nothing")
    assert done.returncode == 1
    assert "jax finds no such device" in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    # The device's own words, on a machine of any size.
    monkeypatch.setitem(cli.COMMANDS, "fill", lambda args: jnp.zeros(2**46).block_until_ready())
    assert cli.main(["fill"]) == 1
    said = capfd.readouterr().err
    assert "raise runtime.micro-batches" in said
    assert len(said.strip().splitlines()) == 1


def test_a_workdir_that_holds_something_else_is_left_alone(small_run: SmallRun, tmp_path: Path) -> None:
    workdir = tmp_path / "thesis"
    workdir.mkdir()
    (workdir / "chapter.txt").write_text("all of it")
    done = electra_jax(*pretrain_args(small_run.data, workdir))
    assert done.returncode == 2
    assert "exists already" in done.stderr.decode()
    assert [path.name for path in workdir.iterdir()] == ["chapter.txt"]


def test_a_run_with_a_damaged_config(small_run: SmallRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.run, run)
    (run / "config.json").write_text('{"name": "tiny"')
    done = electra_jax(*pretrain_args(small_run.data, run))
    assert done.returncode == 2
    assert "config.json cannot be read" in done.stderr.decode()


@pytest.mark.parametrize("content", ['{"fingerprint"', "[]", "{}"])
def test_a_run_with_a_damaged_description_of_its_data(small_run: SmallRun, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.run, run)
    (run / "data.json").write_text(content)
    done = electra_jax(*pretrain_args(small_run.data, run))
    assert done.returncode == 2
    assert "data.json cannot be read" in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1


def test_steps_are_recorded_where_asked_for(small_run: SmallRun, tmp_path: Path) -> None:
    args = pretrain_args(small_run.data, tmp_path / "run", "--train.steps", "6", "--optimizer.warmup-steps", "2")
    electra_jax(*args, "--runtime.profile", "2", check=True)
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))


def test_metrics_and_folder_are_as_described(small_run: SmallRun) -> None:
    names = {path.name for path in small_run.run.iterdir()}
    assert {
        "config.json",
        "data.json",
        "tokenizer",
        "checkpoints",
        "metrics.jsonl",
        "curves.png",
        "tensorboard",
    } <= names
    lines = [json.loads(line) for line in (small_run.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    always = {"step", "tokens", "seconds", "train/loss", "train/mlm_loss", "train/mlm_accuracy", "train/rtd_loss"}
    always |= {"tokens_per_second", "waiting", "mfu"}
    evaluated = {"mlm_loss", "mlm_accuracy", "rtd_loss", "rtd_auc", "rtd_auc_unigram", "rtd_precision", "rtd_recall"}
    evaluated = {f"eval/{name}" for name in evaluated | {"replaced_share"}}
    for line in lines:
        assert always <= line.keys()
        assert (evaluated <= line.keys()) == (line["step"] % 10 == 0)
    assert lines[-1]["tokens"] > lines[0]["tokens"] > 0
    assert all(0 <= line["waiting"] <= 1 for line in lines)
    assert (small_run.run / "curves.png").read_bytes().startswith(b"\x89PNG")
