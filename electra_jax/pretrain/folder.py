"""The run folder: config.json, data.json (the data set's description), tokenizer/, checkpoints/, metrics.jsonl."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from electra_jax.config import PretrainConfig, differences, read_config
from electra_jax.errors import UserError
from electra_jax.files import new_folder, read_json, write_json
from electra_jax.settings import to_json
from electra_jax.text.rows import DataSet
from electra_jax.training.processes import is_first, wait_for_all
from electra_jax.training.workdir import own


@contextmanager
def claimed(workdir: Path, config: PretrainConfig, data_set: DataSet, begun: bool) -> Iterator[PretrainConfig]:
    """The workdir is this run's, and the first process holds it for all; inside, the run's settings.

    Raises UserError where it belongs to other settings or data, or another process trains in it.
    """
    with ExitStack() as held:
        if is_first():
            claim(workdir, config, data_set)
            held.enter_context(own(workdir))
            keep_runtime(workdir, config, begun)
        wait_for_all("the workdir is claimed")
        yield read_config(workdir / "config.json")


def check_data(config: PretrainConfig, data_set: DataSet) -> None:
    """Raises UserError where the settings and the data set do not go together."""
    if data_set.vocab_size != config.model.vocab_size:
        raise UserError(
            f"the data set's tokenizer has {data_set.vocab_size:,} tokens, but model.vocab_size is "
            f"{config.model.vocab_size:,}: pass --model.vocab-size {data_set.vocab_size}, or prepare the data with "
            f"--vocab-size {config.model.vocab_size}"
        )
    if data_set.length != config.data.length:
        raise UserError(
            f"the data set's rows have {data_set.length} tokens, but data.length is {config.data.length}: pass "
            f"--data.length {data_set.length}, or prepare the data with --length {config.data.length}"
        )
    if len(data_set.train) == 0:
        raise UserError("the data set holds no training rows: prepare it from more text")


def claim(workdir: Path, config: PretrainConfig, data_set: DataSet) -> None:
    """Makes the workdir this run's: creates it whole, or checks that it belongs to the same settings and data.

    Raises UserError, with the differences, where it does not; a folder that holds something else is left alone.
    """
    check_data(config, data_set)
    if not (workdir / "config.json").is_file():
        with new_folder(workdir) as folder:
            write_json(folder / "config.json", to_json(config))
            write_json(folder / "data.json", data_set.meta)
            shutil.copytree(data_set.tokenizer_folder, folder / "tokenizer")
        return
    changed = differences(read_config(workdir / "config.json"), config)
    if changed:
        raise UserError(
            f"{workdir} was begun with other settings ({'; '.join(changed)}): set them back, or choose a new workdir"
        )
    (begun_on,) = read_json(workdir / "data.json", "choose a new workdir", "fingerprint")
    if begun_on != data_set.fingerprint:
        raise UserError(f"{workdir} was begun on another data set: name that one, or choose a new workdir")


def keep_runtime(workdir: Path, config: PretrainConfig, begun: bool) -> None:
    """Writes today's runtime settings, which a resumed run may change, into config.json.

    Where the run began with weights that have moved since, it keeps their old place: they are read no more.
    """
    old = read_config(workdir / "config.json")
    if begun:
        config = dataclasses.replace(old, runtime=config.runtime)
    if old != config:
        write_json(workdir / "config.json", to_json(config))
