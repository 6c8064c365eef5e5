"""Does the runs of a config with one process for each device of this machine.

  python launch/local.py --config=configs/table_unsupervised.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

Runs that share features go to the same process as long as there are enough for all. A process may
die, also by `kill -9` or for want of memory: another one takes its place, and a run that lost
three has failed. It may be stopped at any moment and started again. With `--part=k/n` it does the
k-th of n parts of the runs, for a machine of several that share the work; k counts from 0. What the
processes say is in <results>/logs.
"""

import multiprocessing
import os
import pathlib
import re
import subprocess
from multiprocessing import connection
from typing import Any

from absl import flags
from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0 is one for each GPU, or one.")
_PART = flags.DEFINE_string("part", "0/1", "Which part of the runs to do, as k/n.")
_TRIES = flags.DEFINE_integer("tries", 3, "A run that loses so many processes has failed.")


class Process:
  """A process that does runs, seen from the one that hands them out."""

  def __init__(self, config: Any, number: int, of: int, gpus: int):
    """Starts it, with a GPU of its own where there is one, else with its part of the cores."""
    context = multiprocessing.get_context("spawn")
    self.pipe, theirs = context.Pipe()
    self.number, self.of, self.gpus = number, of, gpus
    self.log = pathlib.Path(config.results) / "logs" / f"worker-{number}.log"
    args = (theirs, config, self.log, number, of, gpus)
    self._process = context.Process(target=_work, args=args, daemon=True)
    self._process.start()
    theirs.close()  # so that reading ends when the process does

  def why(self) -> str:
    """Returns in words how the process ended."""
    self._process.join()
    code = self._process.exitcode or 0
    how = f"signal {-code} ended it" if code < 0 else f"it ended with code {code}"
    return f"{how}; see {self.log}"


def _work(
  pipe: connection.Connection, config: Any, log: pathlib.Path, number: int, of: int, gpus: int
) -> None:
  """Does what comes through the pipe, in a process of its own, and sends the lines back."""
  log.parent.mkdir(parents=True, exist_ok=True)
  descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(descriptor, stream)
  cli.log()
  if gpus:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
  elif of > 1 and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number % len(cores) :: of])
  from imiad_jax import features, jobs, plans  # JAX takes the devices that it sees by now

  plan = plans.make(config)
  worker = jobs.Worker(config, features.Store(plan.index, plan.source, plan.stages))
  while True:
    try:
      group = pipe.recv()
    except EOFError:  # the program that hands out is no more
      return
    pipe.send(worker.attempt(group))


def _gpus() -> int:
  """Returns how many GPUs there are."""
  try:
    said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
  except (OSError, subprocess.CalledProcessError):
    return 0
  return len(re.findall(r"^GPU \d+", said, re.MULTILINE))


def main(argv: list[str]) -> None:
  """Hands out the runs of the config until each has its line, and prints the table."""
  del argv
  config = _CONFIG.value
  if config is None:
    raise UserError("No config was given: python launch/local.py --config=configs/...")
  found = re.fullmatch(r"(\d+)/(\d+)", _PART.value)
  if not found:
    raise UserError(f'The part "{_PART.value}" should be k/n, such as 0/4.')
  if _WORKERS.value < 0 or _TRIES.value < 1:
    raise UserError("There must be at least one process, and one try.")
  import jax

  gpus = _gpus()
  jax.config.update("jax_platforms", "cpu")  # the GPUs are for the processes
  from imiad_jax import jobs, plans, sweeps

  plan = plans.part(plans.make(config), int(found[1]), int(found[2]))
  sweep = sweeps.Sweep(config, plan, _TRIES.value)
  count = min(_WORKERS.value or max(gpus, 1), max(len(plan.todo), 1))
  busy: dict[Any, Process] = {}  # what to wait for -> the process behind it
  idle = [Process(config, k, count, gpus) for k in range(count)] if plan.todo else []
  while True:
    for process in list(idle):
      group = sweep.take(process.number)
      if group:
        idle.remove(process)
        busy[process.pipe] = process
        _send(process, group)
    if sweep.over:
      break
    for pipe in connection.wait(list(busy)):
      process = busy.pop(pipe)
      try:
        sweep.took(process.number, process.pipe.recv())
      except (EOFError, ConnectionError):
        sweep.lost(process.number, process.why())
        process = Process(config, process.number, process.of, process.gpus)
      idle.append(process)
  jobs.conclude(config, plan)


def _send(process: Process, group: list[Any]) -> None:
  """Gives a process its runs; that it has died is seen when its answer is waited for."""
  try:
    process.pipe.send(group)
  except (BrokenPipeError, ConnectionError):
    pass


if __name__ == "__main__":
  cli.run(main)
