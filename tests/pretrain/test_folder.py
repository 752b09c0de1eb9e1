import dataclasses
import json
import shutil

import pytest

from electra_jax.config import read_config
from electra_jax.errors import UserError
from electra_jax.pretrain.folder import claim
from electra_jax.text.rows import open_data_set


def test_a_run_begun_before_a_setting_existed_goes_on_under_its_default_only(small_run, tmp_path):
    config, data_set = read_config(small_run.run / "config.json"), open_data_set(small_run.data)
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copy(small_run.run / "data.json", workdir)
    values = json.loads((small_run.run / "config.json").read_text(encoding="utf-8"))
    del values["objective"]["masked_positions"]
    old = json.dumps(values)
    (workdir / "config.json").write_text(old, encoding="utf-8")
    claim(workdir, config, data_set)
    objective = dataclasses.replace(config.objective, masked_positions="with_replacement")
    with pytest.raises(UserError, match=r"objective\.masked_positions: unique → with_replacement"):
        claim(workdir, dataclasses.replace(config, objective=objective), data_set)
    assert (workdir / "config.json").read_text(encoding="utf-8") == old
