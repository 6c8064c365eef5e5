"""From configs to groups of runs: what stands together, and what a failure leaves to others."""

from typing import Any

import pytest

from imiad_jax import config, engine, evidence, jobs, plans, records
from imiad_jax.errors import UserError
from imiad_jax.methods import padim
from imiad_jax.types import Run
from tests import pictures


def job(seed: int, category: str = "c0") -> plans.Job:
  kw = padim.SMALL | {"backbone": "efficientnet_lite0", "size": 32, "dim": 10}
  run = Run("pictures", (category,), "unsupervised", {}, "padim", kw, seed)
  return plans.Job(run, {"method": "1"}, records.run_id(run, {"method": "1"}))


def test_groups_differ_by_their_seeds_alone():
  given = [job(s, c) for c in ("c0", "c1") for s in (0, 1, 2)]
  groups = plans.grouped(given, 2)
  said = [[(j.run.categories[0], j.run.seed) for j in group] for group in groups]
  assert said == [[("c0", 0), ("c0", 1)], [("c0", 2)], [("c1", 0), ("c1", 1)], [("c1", 2)]]
  assert plans.grouped(given, 1) == [[j] for j in given]


def test_groups_keep_the_order_of_their_first_runs():
  given = [job(s, c) for s in (0, 1, 2) for c in ("c0", "c1")]  # alike ones stand apart
  assert plans.grouped(given, 1) == [[j] for j in given]
  groups = plans.grouped(given, 2)
  said = [[(j.run.categories[0], j.run.seed) for j in group] for group in groups]
  assert said == [[("c0", 0), ("c0", 1)], [("c1", 0), ("c1", 1)], [("c0", 2)], [("c1", 2)]]


def test_a_failure_among_replicas_is_that_of_one_run(tmp_path, monkeypatch):
  real = engine.together

  def together(whats, store, hooks, memory):
    if any(w.seed == 1 for w in whats):
      raise engine.Failed("scores are not finite")
    yield from real(whats, store, hooks, memory)

  monkeypatch.setattr(engine, "together", together)
  monkeypatch.setattr(jobs, "_cache_compilations", lambda: None)  # it is for the whole process
  out = config.make("synthetic", config.part("padim", "unsupervised", "efficientnet_lite0"))
  out.results = str(tmp_path)
  given = [job(seed) for seed in (0, 1, 2)]
  lines = jobs.Worker(out, pictures.Store()).attempt(given)
  assert [line["id"] for line in lines] == [j.id for j in given]
  assert [line.get("error") for line in lines] == [None, "scores are not finite", None]
  assert [line.get("replicas") for line in lines] == [1, None, 1]
  kept = [evidence.path(str(tmp_path), j.run, j.id) for j in given]
  assert [file.exists() for file in kept] == [True, False, True]
  (test,) = evidence.read(kept[0])
  assert test.category == "c0" and len(test.map) == len(test.image) > 0


def test_replicas_are_a_whole_number():
  out = config.make("synthetic", config.part("padim", "unsupervised", "efficientnet_lite0"))
  out.replicas = 0
  with pytest.raises(UserError, match="replicas is 0"):
    plans._check(out)


def test_a_key_may_stand_alone_where_its_default_is_nothing():
  assert config.parse("quick,a=2", quick="", a="1") == {"quick": "quick", "a": "2"}
  with pytest.raises(UserError, match="needs a value"):
    config.parse("a", quick="", a="1")


def test_an_outline_says_what_is_left_and_what_it_may_take(tmp_path):
  given = [job(seed, c) for c in ("c0", "c1") for seed in (0, 1, 2)]
  file = records.path(str(tmp_path), given[0].run)
  for j, seconds in zip(given[:2], (50, 70), strict=True):
    records.append(file, {"id": j.id, "rows": [], "seconds": seconds})
  records.append(file, {"id": given[2].id, "error": "no", "seconds": 1})
  nowhere: Any = None  # an outline reads no pixels
  plan = plans.Plan(given, given[2:], pictures.Store().index, nowhere, {}, {})
  said = plans.outline(plan, str(tmp_path))
  lines = [" ".join(line.split()) for line in said.splitlines()]
  assert "padim unsupervised 6 2 0 h 01 min 0 h 04 min" in lines
  assert "efficientnet_lite0 32 4" in lines
  assert said.endswith("4 of 6 runs are left, about 0 h 04 min.")
  nothing = plans.outline(plan, str(tmp_path / "empty"))
  assert nothing.endswith("about 0 s and 4 runs of which no time is known.")


def test_runs_that_learn_alike_stand_together_and_the_first_is_costed(synthetic_dir, tmp_path):
  out = config.table("", ("padim",), lambda *_: [])
  out.prepared_dir, out.results = synthetic_dir, str(tmp_path)
  parts = [
    config.part(method, setting, "efficientnet_lite0", kw, **own)
    for method, own in (("padim", {}), ("padim", {"dim": 20}), ("spade", {}))
    for setting, kw in (("unsupervised", {}), ("continual", {}), ("fully_supervised", {}))
  ]
  out.parts, out.seeds, out.categories, out.efficiency = parts, (2, 0), ("bottle", "woven"), True
  plan = plans.make(out)
  said = [
    (run.categories[0], run.method, run.method_kw.get("dim"), run.seed, run.setting)
    for run in (job.run for job in plan.jobs)
  ]
  padim_dim = parts[0].method_kw.dim
  own = [("padim", padim_dim), ("padim", 20), ("spade", None)]
  assert said == [
    (category, *learner, seed, setting)
    for category in ("bottle", "woven")
    for learner in own
    for seed in (2, 0)
    for setting in ("unsupervised", "continual", "fully_supervised")
    if (category, setting) != ("woven", "continual")  # it begins with bottle
  ]
  costed = [s for s, job in zip(said, plan.jobs, strict=True) if job.costed]
  assert costed == [
    ("bottle", *learner, 2, setting) for learner in own for setting in ("unsupervised", "continual")
  ]
  out.efficiency = False
  assert not any(job.costed for job in plans.make(out).jobs)
