"""Sweeps whose workers are killed: each run has one whole line, with a quiet run's numbers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def config(tmp: Path, prepared: str, seeds: int, name: str) -> list[str]:
  """Returns the flags of a sweep of quick runs: two categories by so many seeds."""
  file = tmp / "quick.py"
  file.write_text(
    "from imiad_jax import config\n\n\ndef get_config():\n"
    "  part = config.part('padim', 'unsupervised', 'efficientnet_lite0', size=32, dim=8)\n"
    f"  out = config.make('synthetic', part)\n  out.seeds = tuple(range({seeds}))\n"
    "  out.categories = ('bottle', 'woven')\n  return out\n"
  )
  places = (f"--config.results={tmp / name}", f"--config.prepared_dir={prepared}")
  return [f"--config={file}", *places]


def start(program: list[str], flags: list[str], tmp: Path) -> subprocess.Popen:
  env = os.environ | {"IMIAD_CACHE": str(tmp / "cache")}
  command = [sys.executable, *program, *flags]
  with open(tmp / "said.log", "ab") as out:
    return subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=env)


def finish(process: subprocess.Popen, tmp: Path) -> None:
  assert process.wait(timeout=900) == 0, (tmp / "said.log").read_text()[-3000:]


def numbers(tmp: Path, name: str) -> dict[str, list[dict]]:
  """Returns the rows of each run but for their seconds; each line must be whole, and there once."""
  raw = (tmp / name / "unsupervised/synthetic/padim.jsonl").read_bytes()
  assert raw.endswith(b"\n")
  lines = [json.loads(line) for line in raw.splitlines()]
  assert len({line["id"] for line in lines}) == len(lines)
  return {
    line["id"]: [{k: v for k, v in row.items() if k != "seconds"} for row in line["rows"]]
    for line in lines
  }


def workers(sign: str, tmp: Path) -> list[int]:
  """Returns the processes whose command line has `sign`, of this test alone."""
  found: list[int] = []
  for folder in Path("/proc").iterdir():
    try:
      mine = f"IMIAD_CACHE={tmp / 'cache'}".encode() in (folder / "environ").read_bytes()
      if mine and sign.encode() in (folder / "cmdline").read_bytes():
        found.append(int(folder.name))
    except (OSError, ValueError):
      continue
  return found


def killed_at_random(
  program: list[str], sign: str, prepared: str, tmp: Path, seeds: int, pause: tuple[float, float]
) -> int:
  """Runs a sweep and kills one of its workers again and again; returns how many it killed."""
  rng = np.random.default_rng(0)
  flags = config(tmp, prepared, seeds, "killed")
  process = start(program, [*flags, "--workers=2", "--tries=50"], tmp)
  killed = 0
  until = time.monotonic() + rng.uniform(*pause)
  while process.poll() is None:
    time.sleep(0.1)
    if time.monotonic() > until:
      there = workers(sign, tmp)
      if there:
        os.kill(int(rng.choice(there)), signal.SIGKILL)
        killed += 1
      until = time.monotonic() + rng.uniform(*pause)
  finish(process, tmp)
  return killed


def quiet(prepared: str, tmp: Path, seeds: int) -> dict[str, list[dict]]:
  finish(start(["-m", "imiad_jax.main"], config(tmp, prepared, seeds, "quiet"), tmp), tmp)
  return numbers(tmp, "quiet")


LOCAL = (["launch/local.py"], "spawn_main")
RAY = (["launch/ray_sweep.py"], "ray::Worker")


@pytest.mark.slow
def test_processes_are_killed(synthetic_dir, tmp_path):
  killed = killed_at_random(*LOCAL, synthetic_dir, tmp_path, seeds=4, pause=(5, 8))
  assert killed
  assert numbers(tmp_path, "killed") == quiet(synthetic_dir, tmp_path, seeds=4)


@pytest.mark.long
@pytest.mark.parametrize(
  ("program", "sign", "pause"), [(*LOCAL, (3, 6)), (*RAY, (6, 10))], ids=["local", "ray"]
)
def test_two_hundred_runs_of_which_workers_are_killed(
  program, sign, pause, synthetic_dir, tmp_path
):
  expected = quiet(synthetic_dir, tmp_path, seeds=100)
  assert len(expected) == 200
  killed = killed_at_random(program, sign, synthetic_dir, tmp_path, seeds=100, pause=pause)
  assert killed >= 3
  assert numbers(tmp_path, "killed") == expected


@pytest.mark.long
def test_two_sweeps_over_one_folder_at_once(synthetic_dir, tmp_path):
  flags = config(tmp_path, synthetic_dir, 10, "both")
  both = [start(LOCAL[0], flags, tmp_path) for _ in range(2)]
  for process in both:
    finish(process, tmp_path)
  assert numbers(tmp_path, "both") == quiet(synthetic_dir, tmp_path, seeds=10)


@pytest.mark.long
def test_the_program_itself_is_killed_and_started_again(synthetic_dir, tmp_path):
  flags = config(tmp_path, synthetic_dir, 20, "again")
  for seconds in (9, 12):
    process = start(LOCAL[0], flags, tmp_path)
    time.sleep(seconds)
    process.kill()
    process.wait(timeout=60)
  finish(start(LOCAL[0], flags, tmp_path), tmp_path)
  assert workers("spawn_main", tmp_path) == []  # none goes on without the one that hands out
  assert numbers(tmp_path, "again") == quiet(synthetic_dir, tmp_path, seeds=20)


@pytest.mark.long
def test_hosts_that_jax_joins_do_a_part_each(synthetic_dir, tmp_path):
  flags = config(tmp_path, synthetic_dir, 2, "joined")
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  hosts = [start(["launch/multihost.py"], [*flags, f"--process={k}"], tmp_path) for k in range(2)]
  for process in hosts:
    finish(process, tmp_path)
  assert numbers(tmp_path, "joined") == quiet(synthetic_dir, tmp_path, seeds=2)
