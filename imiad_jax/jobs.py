"""From each run of a config that is not done to its line of results."""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import jax
import numpy as np

from imiad_jax import (
  cache,
  curves,
  efficiency,
  engine,
  evidence,
  features,
  gallery,
  plans,
  plugins,
  records,
  summary,
  tables,
  training,
)
from imiad_jax.checkpoints import Checkpoint
from imiad_jax.curves import Curves
from imiad_jax.errors import UserError
from imiad_jax.lessons import Memory
from imiad_jax.types import Index, Run, State

_LOG = logging.getLogger(__name__)

Config = Any  # ml_collections.ConfigDict, of whose entries a type checker knows nothing

_LIBRARIES = ("imiad_jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow")


class Worker:
  """Does runs of a config; what runs share, such as features, is kept from one to the next."""

  def __init__(self, config: Config, store: features.Store):
    """Takes the pixels and features of the config's data set."""
    _cache_compilations()
    self._config, self._store, self._memory = config, store, Memory()

  def attempt(self, group: list[plans.Job]) -> list[records.Record]:
    """Does runs that differ by their seeds at once, and returns the line of each.

    Where one fails, or they need too much memory, they are done one by one; the line of a run
    that fails alone says why.
    """
    try:
      return _lines(group, self._store, self._config, self._memory)
    except (engine.Failed, MemoryError, jax.errors.JaxRuntimeError) as e:
      if len(group) > 1:
        return [line for job in group for line in self.attempt([job])]
      _LOG.error("failed: %s", e)
      return [_line(group[0], self._store.index) | {"error": str(e)}]


def do(config: Config, plan: plans.Plan) -> None:
  """Does the runs of a plan that have no line yet, one after the other, and prints the table.

  Raises:
    UserError: runs failed.
  """
  records.check_writable(config.results)
  worker = Worker(config, features.Store(plan.index, plan.source, plan.stages))
  _LOG.info("%d runs are to do of %d", len(plan.todo), len(plan.jobs))
  done = 0
  for group in plans.grouped(plan.todo, config.replicas):
    _LOG.info("run %d/%d: %s", done + 1, len(plan.todo), plans.named(group))
    for job, line in zip(group, worker.attempt(group), strict=True):
      records.append(records.path(config.results, job.run), line)
    done += len(group)
  conclude(config, plan)


def conclude(config: Config, plan: plans.Plan) -> None:
  """Prints the table of a plan's runs that have a line.

  Raises:
    UserError: runs of those that were left at first failed.
  """
  if not plan.todo:
    print("Nothing to do: every run of this config has its line of results already.\n")
  files = list(dict.fromkeys(records.path(config.results, job.run) for job in plan.jobs))
  mine = {job.id for job in plan.jobs}
  lines = [r for file in files for r in records.read(file) if r["id"] in mine]
  print(tables.text(summary.of(lines) if "parts" in config else tables.sections(lines)))
  for what, why in plan.refused.items():
    print(f"\nLeft out: {what}: {why}")
  print("\nResults: " + "\n         ".join(map(str, files)))
  tried = {job.id for job in plan.todo}
  failed = sum("error" in line and line["id"] in tried for line in lines)
  if failed:
    raise UserError(f"{failed} of {len(plan.jobs)} runs failed; their lines of results say why.")


def _lines(
  group: list[plans.Job], store: features.Store, config: Config, memory: Memory
) -> list[records.Record]:
  """Does runs that differ by their seeds at once; returns their lines."""
  began = time.perf_counter()
  _forget_peak()
  outcomes: list[list[engine.Outcome]] = [[] for _ in group]
  tests: list[list[evidence.Test]] = [[] for _ in group]
  costs: list[dict[str, Any]] = [{} for _ in group]
  rows: list[list[dict[str, Any]]] = [[] for _ in group]

  def last(r: int, built: training.Built, state: State) -> None:
    if group[r].costed:
      costs[r] = _cost(store, group[r].run, built, state)

  root = str(config.results)
  drawn = Curves([curves.path(root, job.run, job.id) for job in group], config.tensorboard)
  folder = records.path(root, group[0].run).parent / "checkpoints"
  folder /= f"{group[0].run.method}-{_hash([job.id for job in group])}"
  with Checkpoint(folder, config.checkpoint_minutes, rows) as checkpoint:
    hooks = engine.Hooks(checkpoint.restore, checkpoint.keep, drawn.add, last)
    for r, outcome in engine.together([job.run for job in group], store, hooks, memory):
      row = {"learnt": outcome.learnt, "task": outcome.category} | outcome.metrics
      rows[r].append(row | {"seconds": {k: round(v, 3) for k, v in outcome.seconds.items()}})
      if outcome.final:
        tests[r].append(evidence.of(outcome, store, group[r].run))
        outcomes[r] += [outcome] if config.gallery else []
  drawn.write()
  measured = {
    "seconds": round((time.perf_counter() - began) / len(group), 2),
    "replicas": len(group),
    "peak_bytes": _peak_bytes(),
  }
  lines: list[records.Record] = []
  for job, found, seen, shown, cost in zip(group, rows, tests, outcomes, costs, strict=True):
    if seen:
      evidence.write(evidence.path(root, job.run, job.id), seen)
    if shown:
      folder = records.path(config.results, job.run).parent / "gallery"
      picture = folder / f"{job.run.method}-{job.id}.png"
      gallery.write(picture, shown, store, job.run.method_kw["size"], config.gallery)
      print(f"Gallery: {picture}")
    line = _line(job, store.index) | {"rows": found} | measured
    lines.append(line | ({"efficiency": cost} if cost else {}))
  return lines


def _line(job: plans.Job, index: Index) -> records.Record:
  """Returns what a run's line says before anything is measured, of the run and of this machine."""
  return {
    "id": job.id,
    "run": job.run._asdict(),
    "versions": job.versions,
    "selection": _selection(job.run, index),
    "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
    "python": platform.python_version(),
    "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    "commit": _commit(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }


def _selection(run: Run, index: Index) -> dict[str, dict[str, Any]]:
  """Returns for each task which rows it learns and tests: a hash of their names, and what is drawn.

  Drawn are the training images that come from the test split, and all where they are fewer than
  the train split has. Where some are told anomalous, "told" has the kinds of their defects.
  """
  setting = plugins.load("settings", run.setting)
  out: dict[str, dict[str, Any]] = {}
  for task in setting.tasks(index, run.categories, run.seed, **run.setting_kw):
    test = np.concatenate([*task.tests.values()])
    official = np.concatenate([index.rows(c, "train") for c in task.tests])
    drawn = np.setdiff1d(task.train, official)
    drawn = task.train if len(np.setdiff1d(official, task.train)) else drawn
    hashes = {
      "train": _hash(index.name[task.train].tolist()),
      "test": _hash(index.name[test].tolist()),
    }
    out[task.name] = hashes | {"drawn": sorted(index.name[drawn].tolist())}
    if task.label.any():
      out[task.name]["told"] = sorted(set(index.kind[task.train[task.label == 1]].tolist()))
  return out


def _hash(names: list[str]) -> str:
  return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def _cost(
  store: features.Store, run: Run, built: training.Built, state: State
) -> dict[str, float | int]:
  """Returns what scoring costs (see efficiency), on a batch of training images."""
  method = built.method
  rows = store.index.rows(run.categories[-1], "train")[: method.batch]
  frozen = store.features(rows, method.backbone, method.stages, method.size)
  image = store.pixels(rows, method.size).image
  return efficiency.measure(built, state, {"image": image, "features": frozen})


def _cache_compilations() -> None:
  """Keeps compiled functions on disk: a second start is then several times faster."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", cache.folder("compiled"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _forget_peak() -> None:
  """Starts the measuring of a process's peak memory anew, where Linux lets it."""
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
  """Returns the most memory used: of the accelerator so far, or on a CPU by this process.

  On Linux that is since `_forget_peak`, elsewhere since the process began.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  with contextlib.suppress(OSError):
    found = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    if found:
      return int(found[1]) * 1024
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == "darwin" else most * 1024


def _commit() -> str:
  """Returns the git commit of the package's source, or "" where there is none."""
  here = pathlib.Path(__file__).parent
  try:
    said = subprocess.run(
      ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return ""
  return said.stdout.strip()
