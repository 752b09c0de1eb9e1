import io
import struct
import subprocess
import sys

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from electra_jax.training import progress
from electra_jax.training.metrics import MetricsLog, read_metrics
from electra_jax.training.progress import ProgressLine, describe


def events(run):
    """What TensorBoard reads: records of a length, its checksum, an event, its checksum."""
    found = []
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_lines_and_events_say_the_same(tmp_path):
    log = MetricsLog(tmp_path, 0, tensorboard=True)
    lines = [{"step": step, "train/loss": step / 2, "eval/rtd_auc": None} for step in (5, 10)]
    for line in lines:
        log.write(line | {"mfu": float("nan")})
    log.close()
    assert read_metrics(tmp_path) == [line | {"mfu": None} for line in lines]
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert scalars == [(5, "train/loss", 2.5), (10, "train/loss", 5.0)]


def test_going_on_drops_later_lines_and_a_half_written_one(tmp_path):
    log = MetricsLog(tmp_path, 0, tensorboard=True)
    for step in (5, 10, 15):
        log.write({"step": step})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2')
    MetricsLog(tmp_path, 10, tensorboard=True).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]
    # TensorBoard purges what comes from this step on in the files before.
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert 11 in starts


def test_without_tensorboardx_that_feature_alone_is_missing(tmp_path):
    code = f"""
import sys
sys.modules["tensorboardX"] = None
from pathlib import Path
from electra_jax.training.metrics import MetricsLog
log = MetricsLog(Path({str(tmp_path)!r}), 0, True)
log.write({{"step": 1}})
log.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tensorboardX is not installed" in done.stdout
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert not (tmp_path / "tensorboard").exists()


def test_the_eta_of_a_run_of_weeks_counts_its_days(monkeypatch):
    moments = iter([0.0, 100.0, 200.0, 300.0, 400.0, 500.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    shown = io.StringIO()
    line = ProgressLine(Console(file=shown, width=200), 0, 100_000)
    line.show({"step": 10})  # compilation came before it
    line.show({"step": 30, "train/loss": 2.0})
    line.close()
    last = shown.getvalue().splitlines()[-1]
    assert last.startswith("step 30/100,000  loss 2.000")
    seconds_a_step = float(last.split("ETA ")[1].split(" days")[0]) * 86400 / (100_000 - 30)
    assert 4 < seconds_a_step <= 20


@pytest.mark.parametrize(("line", "text"), [({"mfu": 0.5, "train/loss": None}, "MFU 50.0%"), ({}, "")])
def test_only_what_is_known_is_shown(line, text):
    assert describe(line) == text
