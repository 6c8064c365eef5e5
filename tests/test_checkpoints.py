"""A run that is stopped goes on from its checkpoint to the numbers of one that was not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import engine, plugins
from imiad_jax.checkpoints import Checkpoint
from imiad_jax.types import Run
from tests import pictures


class Stopped(BaseException):
  """Stands for `kill -9`."""


class Stopping(Checkpoint):
  """Stops right after so many checkpoints were written."""

  left = 0

  def keep(self, task: int, epoch: int, end: bool, state: Any) -> None:
    super().keep(task, epoch, end, state)
    self.left -= 1
    if self.left == 0:
      raise Stopped


def do(run: Run, checkpoint: Checkpoint | None, rows: list[list[Any]]) -> list[dict]:
  """Does a run as jobs.py does; returns its rows but for the times."""
  store = pictures.Store(tasks=2)
  hooks = engine.Hooks()
  if checkpoint:
    hooks = engine.Hooks(checkpoint.restore, checkpoint.keep)
  for r, outcome in engine.together([run], store, hooks):
    rows[r].append({"learnt": outcome.learnt, "task": outcome.category} | outcome.metrics)
  return rows[0]


def continual(method: str) -> Run:
  module = plugins.load("methods", method)
  tiny = __import__(f"tests.methods.test_{method}", fromlist=["TINY"]).TINY
  small = {"backbone": "efficientnet_lite0"} | module.SMALL | tiny | {"size": 32}
  kw = plugins.resolve(method, module.Model, small)
  return Run("pictures", ("c0", "c1"), "continual", {"sizes": ()}, method, kw, 0)


@pytest.mark.parametrize(("method", "stops"), [("patchcore", (1,)), ("simplenet", (1, 4))])
def test_a_stopped_run_goes_on_to_the_same_numbers(method, stops, tmp_path):
  run = continual(method)
  expected = do(run, None, [[]])
  for at in stops:  # within the first task, or after it
    rows: list[list[Any]] = [[]]
    with pytest.raises(Stopped), Stopping(tmp_path / str(at), 0.0, rows) as first:
      first.left = at
      do(run, first, rows)
    assert (tmp_path / str(at)).exists()
    rows = [[]]
    with Checkpoint(tmp_path / str(at), 0.0, rows) as second:
      assert do(run, second, rows) == expected
    assert not (tmp_path / str(at)).exists()


def test_a_run_that_failed_leaves_nothing(tmp_path):
  with pytest.raises(ValueError), Checkpoint(tmp_path / "a", 0.0, [[]]) as checkpoint:
    checkpoint.keep(0, 1, True, jnp.zeros(3))
    raise ValueError
  assert not (tmp_path / "a").exists()


def kept(folder, state: Any, *place: int, rows: list[list[Any]]) -> None:
  """Leaves a checkpoint behind."""
  with pytest.raises(Stopped), Checkpoint(folder, 0.0, rows) as checkpoint:
    checkpoint.keep(0, 0, False, {"a": jnp.zeros(2)})  # is replaced
    checkpoint.keep(*place, False, state)
    raise Stopped


def test_nothing_is_kept_before_it_is_due(tmp_path):
  with Checkpoint(tmp_path / "a", 10.0, [[]]) as checkpoint:
    checkpoint.keep(0, 1, True, jnp.zeros(3))
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_has_keys_bits_and_rows(tmp_path):
  state = {"a": jnp.float32([0.1, np.inf]), "key": jax.random.key(3), "i": jnp.int32(7)}
  rows: list[list[Any]] = [[{"task": "a", "image_auroc": 1 / 3}], []]
  kept(tmp_path / "a", state, 4, 2, rows=rows)
  like = {"a": jnp.zeros(2), "key": jax.random.key(0), "i": jnp.int32(0)}
  back: list[list[Any]] = [[], []]
  with Checkpoint(tmp_path / "a", 0.0, back) as checkpoint:
    found, task, epoch = checkpoint.restore(like)
  assert (task, epoch, back) == (4, 2, rows)
  np.testing.assert_array_equal(found["a"], state["a"])
  assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(state["key"]).tolist()


def test_another_process_at_the_same_runs_is_left_alone(tmp_path):
  with Checkpoint(tmp_path / "a", 0.0, [[]]) as first:
    first.keep(0, 1, False, {"a": jnp.ones(3)})
    with Checkpoint(tmp_path / "a", 0.0, [[]]) as second:
      found, *place = second.restore({"a": jnp.zeros(3)})
      assert (found["a"].tolist(), place) == ([0, 0, 0], [0, 0])
      second.keep(1, 1, False, {"a": jnp.zeros(3)})
    assert (tmp_path / "a" / "1").exists()


def test_a_checkpoint_of_another_shape_is_left_out(tmp_path):
  kept(tmp_path / "a", {"a": jnp.ones(3)}, 3, 1, rows=[[]])
  like = {"b": jnp.zeros(4)}
  with Checkpoint(tmp_path / "a", 0.0, [[]]) as checkpoint:
    found, *place = checkpoint.restore(like)
  assert found is like and place == [0, 0]


def test_an_array_without_numbers_does_not_hinder(tmp_path):
  state = {"some": jnp.arange(3.0), "none": jnp.zeros((0, 2))}
  with pytest.raises(Stopped), Checkpoint(tmp_path / "c", 0.0, [[]]) as first:
    first.keep(0, 1, False, state)
    raise Stopped
  with Checkpoint(tmp_path / "c", 0.0, [[]]) as second:
    found, task, epoch = second.restore(jax.tree.map(jnp.zeros_like, state))
  assert (task, epoch, found["none"].shape) == (0, 1, (0, 2))
  np.testing.assert_array_equal(found["some"], state["some"])
