"""From a config to its runs, and from each run that is not done to its line of results."""

import logging
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import jax

from imiad_jax import cache, data, engine, features, gallery, metrics, plugins, records, tables
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
  module = plugins.load("methods", config.method)
  built = engine.build(config.method, config.method_kw.to_dict())
  engine.check(built)
  _check(config)
  index, source = data.open(config.dataset, config.data_dir or None, config.prepared_dir)
  versions = {
    "method": module.VERSION,
    "setting": plugins.load("settings", config.setting).VERSION,
    "metrics": metrics.VERSION,
    "dataset": source.version,
    "data": source.fingerprint,
    "weights": features.backbone(built.method.backbone).sha256,
  }
  store = features.Store(index, source)
  runs = expand(config, index)
  todo = [r for r in runs if not records.done(*_place(config.results, r, versions))]
  _LOG.info("%d of %d runs are done already", len(runs) - len(todo), len(runs))
  failed = 0
  for i, run in enumerate(todo):
    _LOG.info("run %d/%d: %s", i + 1, len(todo), "+".join(run.categories))
    failed += not _one(run, store, versions, config)
  if not todo:
    print("Nothing to do: every run of this config has its line of results already.\n")
  mine = {records.run_id(r, versions) for r in runs}
  file = records.path(config.results, runs[0])
  print(tables.text([r for r in records.read(file) if r["id"] in mine]))
  print(f"\nResults: {file}")
  if failed:
    raise UserError(f"{failed} of {len(runs)} runs failed; {file} has their errors.")


def expand(config: Config, index: Index) -> list[Run]:
  """Returns the runs that a config stands for: one for each seed and group of categories."""
  known = engine.categories(index)
  given = tuple(config.categories)
  chosen = known if given == ("all",) else given
  for category in chosen:
    plugins.check(f"category of {config.dataset}", category, known)
  setting = plugins.load("settings", config.setting)
  kw = plugins.resolve(config.setting, setting.tasks, config.setting_kw.to_dict())
  return [
    Run(config.dataset, group, config.setting, kw, config.method, config.method_kw.to_dict(), seed)
    for group in setting.runs(chosen)
    for seed in config.seeds
  ]


def _check(config: Config) -> None:
  """Raises UserError for what no run can be made of, before data are prepared for it."""
  for name in ("seeds", "categories"):
    given = tuple(config[name])
    if not given or len(set(given)) < len(given):
      raise UserError(f"The {name} are {given}. Give one or more, each once.")
  if not all(isinstance(s, int) and s >= 0 for s in config.seeds):
    raise UserError(f"The seeds are {config.seeds}. They must be whole numbers from 0 on.")


def _place(root: str, run: Run, versions: dict[str, str]) -> tuple[pathlib.Path, str]:
  return records.path(root, run), records.run_id(run, versions)


def _one(run: Run, store: features.Store, versions: dict[str, str], config: Config) -> bool:
  """Does one run and writes its line; returns whether it gave a result."""
  began = time.perf_counter()
  file, identity = _place(config.results, run, versions)
  record: records.Record = {"id": identity, "run": run._asdict(), "versions": versions}
  outcomes: list[engine.Outcome] = []
  rows: list[dict[str, Any]] = []
  try:
    for outcome in engine.run(run, store):
      rows.append({"learnt": outcome.learnt, "task": outcome.task.name} | outcome.metrics)
      rows[-1]["seconds"] = {k: round(v, 3) for k, v in outcome.seconds.items()}
      outcomes = [o for o in outcomes if o.learnt == outcome.learnt] + [outcome]
    record["rows"] = rows
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
  if config.gallery and "rows" in record:
    picture = file.parent / "gallery" / f"{run.method}-{identity}.png"
    size = run.method_kw["size"]
    gallery.write(picture, outcomes, store, size, config.gallery)
    print(f"Gallery: {picture}")
  records.append(file, record)
  return "rows" in record


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
