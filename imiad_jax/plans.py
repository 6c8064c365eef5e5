"""From a config to its runs: which there are, which are done, and what the others may take."""

import json
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from imiad_jax import data, engine, features, metrics, plugins, records, tables, training
from imiad_jax.errors import UserError
from imiad_jax.types import Index, Run

Config = Any  # ml_collections.ConfigDict, of whose entries a type checker knows nothing


class Job(NamedTuple):
  """A run and its identity."""

  run: Run
  versions: dict[str, str]
  id: str
  costed: bool = False  # whether what scoring costs is measured after it


class Plan(NamedTuple):
  """What a config asks for."""

  jobs: list[Job]  # in the order they are done: runs that share features stand together
  todo: list[Job]  # those without a line of results
  index: Index
  source: data.Source
  stages: dict[tuple[str, int], tuple[str, ...]]  # (backbone, size) -> what all runs want of it
  refused: dict[str, str]  # "method in setting", where some of it is left out -> the first reason


def make(config: Config) -> Plan:
  """Returns the runs of a config; of several parts those that can be done.

  Raises:
    UserError: the config asks for what does not exist, or nothing of it goes together.
  """
  _check(config)
  parts = config.get("parts", (config,))
  stages: dict[tuple[str, int], tuple[str, ...]] = {}
  for part in parts:
    method = training.check(training.build(part.method, part.method_kw.to_dict()))
    shared = (method.backbone, method.size)
    stages[shared] = (*stages.get(shared, ()), *method.stages)
  index, source = data.open(config.dataset, config.data_dir or None, config.prepared_dir)
  jobs = [job for part in parts for job in _expand(config, part, index, source)]
  jobs, refused = _accepted(_sorted(jobs, list(config.seeds)), index)
  jobs = _costed(jobs) if config.efficiency else jobs
  done = {
    line["id"]
    for file in {records.path(config.results, job.run) for job in jobs}
    for line in records.read(file)
    if "error" not in line
  }
  return Plan(jobs, [job for job in jobs if job.id not in done], index, source, stages, refused)


def _sorted(jobs: list[Job], seeds: list[int]) -> list[Job]:
  """Returns the jobs in the order they are done: what shares features, compilations, State.

  Several categories come beside the first of them alone, which is what they may begin with.
  """
  place: dict[tuple[str, str], int] = {}
  for job in jobs:
    place.setdefault(_learner(job), len(place))
  return sorted(
    jobs,
    key=lambda job: (
      *(job.run.categories[0], job.run.method_kw["backbone"]),
      *(place[_learner(job)], seeds.index(job.run.seed)),
    ),
  )


def _costed(jobs: list[Job]) -> list[Job]:
  """Returns the jobs, to be costed the first of each method, hyperparameters, number of categories.

  What scoring costs is the same for other seeds, and much the same in other settings and for as
  many other categories.
  """
  first: dict[Any, str] = {}
  for job in jobs:
    first.setdefault((_learner(job), len(job.run.categories)), job.id)
  wanted = set(first.values())
  return [job._replace(costed=job.id in wanted) for job in jobs]


def _learner(job: Job) -> tuple[str, str]:
  """Returns a job's method with its hyperparameters."""
  return job.run.method, json.dumps(job.run.method_kw, sort_keys=True)


def _accepted(jobs: list[Job], index: Index) -> tuple[list[Job], dict[str, str]]:
  """Returns the jobs whose method and setting go together, and why the others do not.

  Raises:
    UserError: there are none, for the first reason.
  """
  good: list[Job] = []
  refused: dict[str, str] = {}
  for job in jobs:  # before the first one starts
    run = job.run
    try:
      engine.curriculum(run, index, training.build(run.method, run.method_kw).method)
      good.append(job)
    except UserError as e:
      refused.setdefault(f"{run.method} in {run.setting}", str(e))
  if not good:
    raise UserError(next(iter(refused.values())))
  return good, refused


def _expand(config: Config, part: Config, index: Index, source: data.Source) -> list[Job]:
  """Returns what a part of a config stands for: a run for each seed and group of categories.

  The part has a method and a setting; the config says on which data and seeds.
  """
  known = engine.categories(index)
  given = tuple(config.categories)
  chosen = known if given == ("all",) else given
  for category in chosen:
    plugins.check(f"category of {config.dataset}", category, known)
  setting = plugins.load("settings", part.setting)
  kw = plugins.resolve(part.setting, setting.tasks, part.setting_kw.to_dict())
  versions = {
    "method": plugins.load("methods", part.method).VERSION,
    "setting": setting.VERSION,
    "metrics": metrics.VERSION,
    "dataset": source.version,
    "data": source.fingerprint,
    "weights": features.backbone(part.method_kw.backbone).sha256,
  }
  runs = [
    Run(config.dataset, group, part.setting, kw, part.method, part.method_kw.to_dict(), seed)
    for group in setting.runs(chosen, config.multi_class)
    for seed in config.seeds
  ]
  return [Job(run, versions, records.run_id(run, versions)) for run in runs]


def _check(config: Config) -> None:
  """Raises UserError for what no run can be made of, before data are prepared for it."""
  for name in ("seeds", "categories"):
    given = tuple(config[name])
    if not given or len(set(given)) < len(given):
      raise UserError(f"The {name} are {given}. Give one or more, each once.")
  if not isinstance(config.replicas, int) or config.replicas < 1:
    raise UserError(f"replicas is {config.replicas}, but should be a whole number from 1 on.")
  if not all(isinstance(s, int) and s >= 0 for s in config.seeds):
    raise UserError(f"The seeds are {config.seeds}. They must be whole numbers from 0 on.")


def grouped(jobs: list[Job], replicas: int) -> list[list[Job]]:
  """Returns the jobs in groups of up to so many that differ by their seeds alone.

  The groups are in the order of their first jobs.
  """
  place = {job.id: k for k, job in enumerate(jobs)}
  alike: dict[str, list[Job]] = {}
  for job in jobs:
    key = records.run_id(job.run._replace(seed=0), job.versions)
    alike.setdefault(key, []).append(job)
  groups = [
    group[first : first + replicas]
    for group in alike.values()
    for first in range(0, len(group), replicas)
  ]
  return sorted(groups, key=lambda group: place[group[0].id])


def named(group: list[Job]) -> str:
  """Returns in words what runs are that differ by their seeds alone."""
  run = group[0].run
  kw = ", ".join(f"{k}={v}" for k, v in run.setting_kw.items())
  seeds = f", seeds {'+'.join(str(job.run.seed) for job in group)}" if len(group) > 1 else ""
  setting = f"{run.setting} ({kw})" if kw else run.setting
  return f"{run.method}, {setting}: {'+'.join(run.categories)}{seeds}"


def shared(run: Run) -> tuple[Any, ...]:
  """Returns what runs have in common that share features: categories, backbone and size."""
  return (run.dataset, run.categories, run.method_kw["backbone"], run.method_kw["size"])


def part(plan: Plan, k: int, n: int) -> Plan:
  """Returns the k-th of n parts of a plan, of which each run is in one; k counts from 0.

  Runs that share features stay together, whichever of them are done. The jobs of a part are those
  of the whole plan: its table is.

  Raises:
    UserError: no such part.
  """
  if not 0 <= k < n:
    raise UserError(f"Part {k} of {n} was asked for; the parts are 0 to {n - 1}.")
  keys = list(dict.fromkeys(shared(job.run) for job in plan.jobs))
  return plan._replace(todo=[job for job in plan.todo if keys.index(shared(job.run)) % n == k])


def outline(plan: Plan, results: str) -> str:
  """Returns a plan as text: a line for each method and setting, with the time that may be left.

  The time of a run is the mean of earlier ones of the same method, setting and data set that have
  lines below `results`, of whatever hyperparameters; it is not known where there are none. Runs on
  the same row of the second table share the features of a category.
  """
  left = {job.id for job in plan.todo}
  groups: dict[tuple[str, str, str], list[Job]] = defaultdict(list)
  shares: dict[tuple[str, str], int] = defaultdict(int)
  for job in plan.jobs:
    kw = ", ".join(f"{k}={v}" for k, v in job.run.setting_kw.items())
    groups[job.run.method, job.run.setting, kw].append(job)
    method = training.build(job.run.method, job.run.method_kw).method
    if method.stages:
      shares[method.backbone, str(method.size)] += job.id in left
  table = [["method", "setting", "runs", "done", "a run takes", "left"]]
  total, unknown = 0.0, 0
  for (method, setting, kw), jobs in groups.items():
    todo = [job for job in jobs if job.id in left]
    what = f"{setting} ({kw})" if kw else setting
    row = [method, what, str(len(jobs)), str(len(jobs) - len(todo))]
    before = [r["seconds"] for r in records.read(records.path(results, jobs[0].run)) if "rows" in r]
    if before:
      each = float(np.mean(before))
      total += each * len(todo)
      table.append([*row, spoken(each), spoken(each * len(todo))])
    else:
      unknown += len(todo)
      table.append([*row, "?", "?"])
  shared = [["backbone", "size", "runs left"], *([*k, str(n)] for k, n in shares.items())]
  said = f"{len(plan.todo)} of {len(plan.jobs)} runs are left, about {spoken(total)}"
  said += f" and {unknown} runs of which no time is known." if unknown else "."
  return tables.text([("Runs", table), ("Features that runs share", shared)]) + f"\n\n{said}"


def spoken(seconds: float) -> str:
  """Returns seconds as hours and minutes, or as seconds where they are few."""
  minutes = round(seconds / 60)
  return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"
