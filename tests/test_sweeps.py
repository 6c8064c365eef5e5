"""Handing out runs: which go to whom, and that none is lost or done twice."""

import pytest

from imiad_jax import config, plans, records, sweeps
from imiad_jax.errors import UserError
from imiad_jax.methods import padim
from imiad_jax.types import Run
from tests import pictures


def job(seed: int, category: str) -> plans.Job:
  kw = padim.SMALL | {"backbone": "efficientnet_lite0", "size": 32}
  run = Run("pictures", (category,), "unsupervised", {}, "padim", kw, seed)
  return plans.Job(run, {"method": "1"}, records.run_id(run, {"method": "1"}))


def plan(categories="abc", seeds: int = 3) -> plans.Plan:
  jobs = [job(s, c) for c in categories for s in range(seeds)]
  return plans.Plan(jobs, jobs, pictures.Store().index, None, {}, {})  # pyright: ignore


@pytest.fixture
def conf(tmp_path):
  out = config.make("synthetic", config.part("padim", "unsupervised", "efficientnet_lite0"))
  out.results = str(tmp_path)
  return out


def lines(group: list[plans.Job], **more) -> list[dict]:
  return [{"id": j.id, "run": j.run._asdict(), "rows": []} | more for j in group]


def category(group: list[plans.Job] | None) -> str:
  assert group
  return group[0].run.categories[0]


def written(tmp_path) -> list[dict]:
  return records.read(tmp_path / "unsupervised/pictures/padim.jsonl")


def test_a_worker_stays_with_its_features_and_helps_others_at_the_end(conf):
  sweep = sweeps.Sweep(conf, plan("ab", seeds=4))
  met: dict[int, list[str]] = {0: [], 1: []}
  while not sweep.over:
    for who in [0, 0, 1] if len(met[0]) < 4 else [0, 1]:  # one is twice as fast at first
      group = sweep.take(who)
      if group:
        met[who].append(category(group))
        sweep.took(who, lines(group))
  assert met[0][:4] == ["a"] * 4 and met[1][:2] == ["b"] * 2
  assert "b" in met[0][4:]
  assert sorted(met[0] + met[1]) == ["a"] * 4 + ["b"] * 4


def test_workers_begin_apart(conf):
  sweep = sweeps.Sweep(conf, plan("abc"))
  assert {category(sweep.take(who)) for who in range(3)} == {"a", "b", "c"}


def test_what_a_lost_worker_had_is_done_by_another(conf, tmp_path):
  conf.replicas = 3
  sweep = sweeps.Sweep(conf, plan("a"), tries=2)
  met = []
  for _ in range(2):
    assert sweep.take(1) and sweep.take(2) is None and not sweep.over
    sweep.lost(1, "of a test")
  while (group := sweep.take(1)) is not None:
    met.append(len(group))
    sweep.took(1, lines(group))
  assert met == [1, 1, 1] and sweep.over  # together they may have been too large
  assert len(written(tmp_path)) == 3


def test_a_run_that_loses_every_worker_has_failed_and_the_others_have_not(conf, tmp_path):
  sweep = sweeps.Sweep(conf, plan("a"), tries=2)
  bad = job(1, "a").id
  while not sweep.over:
    group = sweep.take(0)
    assert group
    if group[0].id == bad:
      sweep.lost(0, "signal 9 ended it")
    else:
      sweep.took(0, lines(group))
  found = {r["id"]: r.get("error") for r in written(tmp_path)}
  assert len(found) == 3
  assert found.pop(bad) == "its worker was lost 2 times, the last time because signal 9 ended it"
  assert set(found.values()) == {None}


def test_a_worker_that_is_lost_with_nothing_to_do_costs_nothing(conf, tmp_path):
  sweep = sweeps.Sweep(conf, plan("a", seeds=1), tries=1)
  sweep.lost(5, "of a test")
  group = sweep.take(0)
  assert group
  sweep.took(0, lines(group))
  assert ["error" in r for r in written(tmp_path)] == [False]


def test_what_another_sweep_has_done_is_not_handed_out(conf, tmp_path):
  sweep, other = (sweeps.Sweep(conf, plan("a")) for _ in range(2))
  first = other.take(0)
  assert first
  other.took(0, lines(first, who="other"))
  while (group := sweep.take(0)) is not None:
    assert group[0].id != first[0].id
    sweep.took(0, lines(group))
  assert other.take(0) is None and other.over
  assert [r.get("who") for r in written(tmp_path)] == ["other", None, None]


def test_two_that_do_the_same_run_leave_one_line(conf, tmp_path):
  sweep, other = (sweeps.Sweep(conf, plan("a", seeds=1)) for _ in range(2))
  both = [s.take(0) for s in (sweep, other)]
  assert both[0] and both[0] == both[1]
  sweep.took(0, lines(both[0], who="first"))
  other.took(0, lines(both[0], who="second"))
  raw = (tmp_path / "unsupervised/pictures/padim.jsonl").read_text().splitlines()
  assert len(raw) == 1 and '"first"' in raw[0]


def test_parts_hold_each_run_once_and_share_features():
  whole = plan("abcde")
  parts = [plans.part(whole, k, 2).todo for k in range(2)]
  assert sorted(j.id for part in parts for j in part) == sorted(j.id for j in whole.jobs)
  assert not {j.run.categories for j in parts[0]} & {j.run.categories for j in parts[1]}
  half = whole._replace(todo=whole.todo[4:])  # as after some time
  assert plans.part(half, 0, 2).todo == [j for j in parts[0] if j in half.todo]
  with pytest.raises(UserError, match=r"Part 2 of 2 was asked for; the parts are 0 to 1"):
    plans.part(whole, 2, 2)
