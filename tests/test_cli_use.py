"""The commands that use a run, each in a process of its own as a user starts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from runs import STEPS, electra_jax

from electra_jax.cli import main
from electra_jax.training.workdir import own

SHORT, OTHER = "The chef ate the meal in Marby.", "My best friend painted the green door."


def lines(done):
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def percentages(text):
    return [word for word in text.split() if word.endswith("%") and word != "%"]


def test_detect_says_the_same_to_people_and_programs_while_the_run_trains(small_run):
    # As training does in another process: the lock held, by us.
    with own(small_run.run):
        people = electra_jax("detect", "--run", small_run.run, SHORT, OTHER)
        programs = electra_jax("detect", "--run", small_run.run, "--json", stdin=f"{SHORT}\n\n{OTHER}\n".encode())
    assert people.returncode == 0
    assert people.stderr == programs.stderr == b""
    first, second = lines(programs)
    assert (first["text"], second["text"]) == (SHORT, OTHER)
    assert b"\x1b" not in people.stdout
    tokens = first["tokens"] + second["tokens"]
    assert percentages(people.stdout.decode()) == [f"{token['probability']:.0%}" for token in tokens]
    assert all(token["text"] == SHORT[token["start"] : token["end"]] for token in first["tokens"])


def test_fill_mask_and_corrupt_say_the_same_to_people_and_programs(small_run, capsys):
    """In this process, to compile once; how processes end is tested below."""
    run = str(small_run.run)

    def said(*args):
        assert main([*args, "--run", run]) == 0
        return capsys.readouterr().out

    filled = json.loads(said("fill-mask", "The chef [MASK] the [MASK].", "--top", "3", "--json"))
    assert [len(mask["candidates"]) for mask in filled["masks"]] == [3, 3]
    shown = said("fill-mask", "The chef [MASK] the [MASK].", "--top", "3")
    wanted = [f"{c['probability']:.2%}" for mask in filled["masks"] for c in mask["candidates"]]
    assert percentages(shown) == wanted

    corruption = json.loads(said("corrupt", SHORT, "--seed", "3", "--json"))
    assert corruption["text"] == SHORT
    shown = said("corrupt", SHORT, "--seed", "3").splitlines()
    assert shown[0].split() == ["original", "written", "suspected"]
    for line, token in zip(shown[1:], corruption["tokens"], strict=False):
        wanted = [token["original"], token["written"], f"{token['probability']:.0%}"]
        assert line.split()[:3] == wanted
        assert line.endswith("replaced") == token["replaced"] == (token["original_id"] != token["written_id"])
        assert "masked" not in line or token["masked"]
    assert f"{len(corruption['tokens'])} tokens" in shown[len(corruption["tokens"]) + 1]


def test_evaluate_prints_one_object(small_run, tmp_path, capsys):
    args = ["evaluate", "--run", str(small_run.run), "--data", str(small_run.data), "--rows", "48"]
    assert main(args) == 0
    found = json.loads(capsys.readouterr().out)
    last = json.loads((small_run.run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (found["step"], found["rows"]) == (STEPS, 48)
    assert found["rtd_auc"] == pytest.approx(last["eval/rtd_auc"], abs=1e-4)
    assert found["rtd_precision"] == last["eval/rtd_precision"] or found["rtd_precision"] is not None
    other = ["prepare", "--corpus", str(small_run.corpus), "--out", str(tmp_path / "data"), "--length", "32"]
    assert main([*other, "--vocab-size", "100", "--valid-share", "0.1", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--run", str(small_run.run), "--data", str(tmp_path / "data")]) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_colours_only_where_there_is_a_terminal(small_run):
    coloured = electra_jax("detect", "--run", small_run.run, "A", FORCE_COLOR="1", TERM="xterm-256color")
    assert b"\x1b[" in coloured.stdout
    assert "75 and more" in coloured.stdout.decode()


def test_nothing_of_a_text_reaches_the_terminal_as_a_command(small_run, capsys):
    assert main(["detect", "--run", str(small_run.run), "the \x1b[31mchef\x07 ate"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize(
    ("args", "stdin", "sentence"),
    [
        (["detect", "--run", "RUN", ""], b"", "holds no token"),
        (["detect", "--run", "RUN"], b"", "standard input holds no text"),
        (["detect", "--run", "RUN", "-"], b"good\nbad \xff\n", "standard input, line 2 is not UTF-8"),
        (["detect", "--run", "RUN", "--file", "MISSING"], b"", "cannot be opened: No such file"),
        (["detect", "--run", "RUN", "--file", "RUN"], b"", "cannot be opened: Is a directory"),
        (["detect", "--run", "RUN", "--file", "MISSING", "text"], b"", "not both"),
        (["detect", "--run", "MISSING", "text"], b"", "is not a run"),
        (["detect", "--run", "RUN", "--step", "7", "text"], b"", "no checkpoint of step 7"),
        (["fill-mask", "--run", "RUN", "no mask"], b"", "has no [MASK]"),
        (["fill-mask", "--run", "RUN", "[MASK]", "--top", "0"], b"", "top must be at least 1"),
        (["corrupt", "--run", "RUN", "text", "--seed", "-1"], b"", "seed must be"),
        (["evaluate", "--run", "RUN", "--data", "RUN"], b"", "is not a data set"),
        (["evaluate", "--run", "RUN", "--data", "DATA", "--rows", "0"], b"", "rows must be at least 1"),
    ],
)
def test_a_wrong_use_is_one_sentence_and_exit_code_2(small_run, tmp_path, args, stdin, sentence):
    names = {"RUN": small_run.run, "DATA": small_run.data, "MISSING": tmp_path / "missing"}
    done = electra_jax(*(names.get(arg, arg) for arg in args), stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("electra-jax: ")
    assert sentence in line


def test_damaged_checkpoints_fall_back_and_then_fail(small_run, tmp_path):
    run = shutil.copytree(small_run.run, tmp_path / "run")

    def truncate(step):
        for file in (run / "checkpoints" / str(step) / "params" / "d").iterdir():
            os.truncate(file, file.stat().st_size // 2)

    truncate(STEPS)
    done = electra_jax("detect", "--run", run, "--json", SHORT)
    assert len(lines(done)) == 1
    (line,) = done.stderr.decode().splitlines()
    assert f"{STEPS} is damaged" in line
    assert f"the one of step {STEPS - 10} is used" in line
    truncate(STEPS - 10)
    done = electra_jax("detect", "--run", run, SHORT)
    assert (done.returncode, done.stdout) == (1, b"")
    assert len(done.stderr.decode().splitlines()) == 1
    shutil.rmtree(run / "checkpoints")
    done = electra_jax("detect", "--run", run, SHORT)
    assert done.returncode == 2
    assert b"no checkpoint yet" in done.stderr


def test_a_reader_that_leaves_early_and_ctrl_c_leave_no_traceback(small_run, tmp_path):
    many = tmp_path / "many.txt"
    many.write_text(f"{SHORT}\n" * 2000)
    code = "from electra_jax.cli import entry; entry()"
    command = [sys.executable, "-c", code, "detect", "--run", str(small_run.run)]
    with subprocess.Popen([*command, "--file", str(many)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        time.sleep(4)  # it waits for standard input by now
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().decode() == "electra-jax: stopped by SIGINT\n"
