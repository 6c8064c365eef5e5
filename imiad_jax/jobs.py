"""From a config to its runs, and from each run that is not done to its line of results."""

import functools
import hashlib
import logging
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from imiad_jax import (
  cache,
  data,
  efficiency,
  engine,
  features,
  gallery,
  metrics,
  plugins,
  records,
  tables,
)
from imiad_jax.errors import UserError
from imiad_jax.types import Index, Run

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
  _check(config)
  parts = config.get("parts", (config,))
  together: dict[tuple[str, int], tuple[str, ...]] = {}
  for part in parts:
    method = engine.check(engine.build(part.method, part.method_kw.to_dict()))
    shared = (method.backbone, method.size)
    together[shared] = (*together.get(shared, ()), *method.stages)
  index, source = data.open(config.dataset, config.data_dir or None, config.prepared_dir)
  store = features.Store(index, source, together)
  jobs = [job for part in parts for job in expand(config, part, index, source)]
  # Runs that share features stand together.
  jobs.sort(key=lambda job: (job.run.categories, job.run.method_kw["backbone"]))
  todo = [job for job in jobs if not records.done(records.path(config.results, job.run), job.id)]
  _LOG.info("%d of %d runs are done already", len(jobs) - len(todo), len(jobs))
  failed = 0
  for i, job in enumerate(todo):
    kw = ", ".join(f"{k}={v}" for k, v in job.run.setting_kw.items())
    what = f"{job.run.method}, {job.run.setting}{f' ({kw})' if kw else ''}"
    _LOG.info("run %d/%d: %s: %s", i + 1, len(todo), what, "+".join(job.run.categories))
    failed += not _one(job, store, config)
  if not todo:
    print("Nothing to do: every run of this config has its line of results already.\n")
  files = list(dict.fromkeys(records.path(config.results, job.run) for job in jobs))
  mine = {job.id for job in jobs}
  lines = [r for file in files for r in records.read(file) if r["id"] in mine]
  print(tables.text(tables.summary(lines) if len(parts) > 1 else tables.sections(lines)))
  print("\nResults: " + "\n         ".join(map(str, files)))
  if failed:
    raise UserError(f"{failed} of {len(jobs)} runs failed; their lines of results say why.")


class Job(NamedTuple):
  """A run and its identity."""

  run: Run
  versions: dict[str, str]
  id: str


def expand(config: Config, part: Config, index: Index, source: data.Source) -> list[Job]:
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
  if not all(isinstance(s, int) and s >= 0 for s in config.seeds):
    raise UserError(f"The seeds are {config.seeds}. They must be whole numbers from 0 on.")


def _one(job: Job, store: features.Store, config: Config) -> bool:
  """Does one run and writes its line; returns whether it gave a result."""
  began = time.perf_counter()
  run, file = job.run, records.path(config.results, job.run)
  record: records.Record = {"id": job.id, "run": run._asdict(), "versions": job.versions}
  record["selection"] = _selection(run, store.index)
  outcomes: list[engine.Outcome] = []
  rows: list[dict[str, Any]] = []
  cost: dict[str, Any] = {}
  last = functools.partial(_cost, store, run, cost) if config.efficiency else lambda *_: None
  try:
    for outcome in engine.run(run, store, last):
      rows.append({"learnt": outcome.learnt, "task": outcome.category} | outcome.metrics)
      rows[-1]["seconds"] = {k: round(v, 3) for k, v in outcome.seconds.items()}
      if config.gallery:
        outcomes = [o for o in outcomes if o.learnt == outcome.learnt] + [outcome]
    record["rows"] = rows
    record |= {"efficiency": cost} if cost else {}
  except engine.Failed as e:
    _LOG.error("failed: %s", e)
    record["error"] = str(e)
  record |= {
    "seconds": round(time.perf_counter() - began, 2),
    "peak_bytes": _peak_bytes(),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "python": platform.python_version(),
    "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    "commit": _commit(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }
  if outcomes:
    picture = file.parent / "gallery" / f"{run.method}-{job.id}.png"
    size = run.method_kw["size"]
    gallery.write(picture, outcomes, store, size, config.gallery)
    print(f"Gallery: {picture}")
  records.append(file, record)
  return "rows" in record


def _selection(run: Run, index: Index) -> dict[str, dict[str, Any]]:
  """Returns for each task which rows it learns and tests: a hash of their names, and what is drawn.

  Drawn are the training images that come from the test split, and all where they are fewer than
  the train split has.
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
  return out


def _hash(names: np.ndarray) -> str:
  return hashlib.sha256("\n".join(sorted(names.tolist())).encode()).hexdigest()[:12]


def _cost(
  store: features.Store, run: Run, cost: dict[str, Any], built: engine.Built, state: Any
) -> None:
  """Fills `cost` with what scoring costs (see efficiency), on a batch of training images."""
  method = built.method
  rows = store.index.rows(run.categories[-1], "train")[: method.batch]
  frozen = store.features(rows, method.backbone, method.stages, method.size)
  image = store.pixels(rows, method.size).image
  cost |= efficiency.measure(built, state, {"image": image, "features": frozen})


def _cache_compilations() -> None:
  """Keeps compiled functions on disk: a second start is then several times faster."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", cache.folder("compiled"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _peak_bytes() -> int:
  """Returns the most memory used so far: of the accelerator, or of this process on a CPU."""
  stats = jax.devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
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
