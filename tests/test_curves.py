"""What is logged while a method learns."""

import csv
import sys

import jax.numpy as jnp
import pytest

from imiad_jax.curves import Curves
from imiad_jax.errors import UserError


def test_each_run_has_its_own_file_with_each_log_of_each_epoch(tmp_path):
  files = [tmp_path / "curves" / f"stpm-{k}.csv" for k in range(2)]
  curves = Curves(files)
  curves.add(0, 1, {"loss": jnp.float32([0.5, 4]), "other": jnp.float32([1, 2])})
  curves.add(0, 2, {"loss": jnp.float32([0.25, 2]), "other": jnp.float32([1, 2])})
  curves.add(1, 1, {"loss": jnp.float32([8, 16]), "other": jnp.float32([1, 2])})
  assert not files[0].parent.exists()
  curves.write()
  with open(files[1], newline="") as f:
    rows = [
      (r["task"], r["epoch"], float(r["value"])) for r in csv.DictReader(f) if "loss" in r["log"]
    ]
  assert rows == [("0", "1", 4), ("0", "2", 2), ("1", "1", 16)]
  assert sorted(files[0].parent.iterdir()) == files


def test_a_run_alone_logs_scalars_and_one_that_logs_nothing_has_no_file(tmp_path):
  alone, silent = (Curves([tmp_path / name]) for name in ("a.csv", "b.csv"))
  alone.add(0, 1, {"loss": jnp.float32(0.5)})
  silent.add(0, 1, {})
  for curves in (alone, silent):
    curves.write()
  assert (tmp_path / "a.csv").read_text() == "task,epoch,log,value\n0,1,loss,0.5\n"
  assert not (tmp_path / "b.csv").exists()


def test_tensorboard_needs_tensorflow_and_tensorboard(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "clu.metric_writers", None)  # as where its import fails
  needed = r"packages tensorflow and tensorboard \(.*clu.metric_writers.*\): .*\[tensorboard\]"
  with pytest.raises(UserError, match=needed):
    Curves([tmp_path / "a.csv"], str(tmp_path / "board"))
