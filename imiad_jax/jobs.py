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
  efficiency,
  engine,
  features,
  gallery,
  plans,
  plugins,
  records,
  tables,
  training,
)
from imiad_jax.errors import UserError
from imiad_jax.types import Index, Run, State

_LOG = logging.getLogger(__name__)

Config = Any  # ml_collections.ConfigDict, of whose entries a type checker knows nothing

_LIBRARIES = ("imiad_jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow")


def do(config: Config) -> None:
  """Does the runs of a config that have no line yet, then prints the table of all of them.

  Raises:
    UserError: the config asks for what does not exist or does not go together.
  """
  records.check_writable(config.results)
  _cache_compilations()
  plan = plans.make(config)
  store = features.Store(plan.index, plan.source, plan.stages)
  jobs, todo = plan.jobs, plan.todo
  _LOG.info("%d of %d runs are done already", len(jobs) - len(todo), len(jobs))
  failed = done = 0
  for group in plans.grouped(todo, config.replicas):
    run = group[0].run
    kw = ", ".join(f"{k}={v}" for k, v in run.setting_kw.items())
    what = f"{run.method}, {run.setting}{f' ({kw})' if kw else ''}"
    names = "+".join(run.categories)
    more = f", seeds {'+'.join(str(job.run.seed) for job in group)}" if len(group) > 1 else ""
    _LOG.info("run %d/%d: %s: %s%s", done + 1, len(todo), what, names, more)
    failed += _some(group, store, config)
    done += len(group)
  if not todo:
    print("Nothing to do: every run of this config has its line of results already.\n")
  files = list(dict.fromkeys(records.path(config.results, job.run) for job in jobs))
  mine = {job.id for job in jobs}
  lines = [r for file in files for r in records.read(file) if r["id"] in mine]
  print(tables.text(tables.summary(lines) if "parts" in config else tables.sections(lines)))
  print("\nResults: " + "\n         ".join(map(str, files)))
  if failed:
    raise UserError(f"{failed} of {len(jobs)} runs failed; their lines of results say why.")


def _some(jobs: list[plans.Job], store: features.Store, config: Config) -> int:
  """Does runs that differ by their seeds at once and writes their lines; returns how many failed.

  Where one fails they are done one by one, so that the others do not.
  """
  began = time.perf_counter()
  _forget_peak()
  outcomes: list[list[engine.Outcome]] = [[] for _ in jobs]
  costs: list[dict[str, Any]] = [{} for _ in jobs]

  def last(r: int, built: training.Built, state: State) -> None:
    if config.efficiency:
      costs[r] = _cost(store, jobs[r].run, built, state)

  error = ""
  rows: list[list[dict[str, Any]]] = [[] for _ in jobs]
  try:
    for r, outcome in engine.together([job.run for job in jobs], store, last):
      row = {"learnt": outcome.learnt, "task": outcome.category} | outcome.metrics
      rows[r].append(row | {"seconds": {k: round(v, 3) for k, v in outcome.seconds.items()}})
      if config.gallery:
        outcomes[r] = [o for o in outcomes[r] if o.learnt == outcome.learnt] + [outcome]
  except engine.Failed as e:
    if len(jobs) > 1:
      return sum(_some([job], store, config) for job in jobs)
    _LOG.error("failed: %s", e)
    error = str(e)
  common = {
    "seconds": round((time.perf_counter() - began) / len(jobs), 2),
    "replicas": len(jobs),
    "peak_bytes": _peak_bytes(),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "python": platform.python_version(),
    "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    "commit": _commit(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }
  for job, found, shown, cost in zip(jobs, rows, outcomes, costs, strict=True):
    run, file = job.run, records.path(config.results, job.run)
    record: records.Record = {"id": job.id, "run": run._asdict(), "versions": job.versions}
    record["selection"] = _selection(run, store.index)
    record |= {"error": error} if error else {"rows": found}
    record |= {"efficiency": cost} if cost else {}
    if shown:
      picture = file.parent / "gallery" / f"{run.method}-{job.id}.png"
      gallery.write(picture, shown, store, run.method_kw["size"], config.gallery)
      print(f"Gallery: {picture}")
    records.append(file, record | common)
  return len(jobs) if error else 0


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
    hashes = {"train": _hash(index.name[task.train]), "test": _hash(index.name[test])}
    out[task.name] = hashes | {"drawn": sorted(index.name[drawn].tolist())}
    if task.label.any():
      out[task.name]["told"] = sorted(set(index.kind[task.train[task.label == 1]].tolist()))
  return out


def _hash(names: np.ndarray) -> str:
  return hashlib.sha256("\n".join(sorted(names.tolist())).encode()).hexdigest()[:12]


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
  stats = jax.devices()[0].memory_stats()
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
