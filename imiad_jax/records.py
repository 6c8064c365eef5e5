"""One JSON line for each run: its identity, its numbers, and what they were measured with.

A run's identity is a hash of what determines its numbers; its line is its own "done" mark. A folder
of results has one file for each (setting, data set, method). A line is written whole and flushed
under a lock; a torn last line, as a power cut leaves it, is dropped before the next one is added.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from imiad_jax.errors import UserError
from imiad_jax.types import Run

Record = dict[str, Any]


def run_id(run: Run, versions: dict[str, str]) -> str:
  """Returns 12 hex digits: the hash of the run and of the versions that determine its numbers."""
  said = json.dumps([run._asdict(), versions], sort_keys=True)
  return hashlib.sha256(said.encode()).hexdigest()[:12]


def path(root: str, run: Run) -> pathlib.Path:
  """Returns the file that holds a run's line."""
  return pathlib.Path(root) / run.setting / run.dataset / f"{run.method}.jsonl"


def read(file: pathlib.Path) -> list[Record]:
  """Returns a file's records in order, one for each id: the last one, torn lines left out."""
  if not file.exists():
    return []
  found: dict[str, Record] = {}
  whole, _, _ = file.read_bytes().rpartition(b"\n")
  for line in whole.splitlines():
    try:
      record: Record = json.loads(line)
      found[record["id"]] = record
    except (ValueError, KeyError, TypeError):
      continue
  return list(found.values())


def read_all(root: str) -> Iterator[Record]:
  """Yields the records of every file below a results folder, in the order of their paths."""
  for file in sorted(pathlib.Path(root).glob("*/*/*.jsonl")):
    yield from read(file)


def done(file: pathlib.Path, identity: str) -> bool:
  """Says whether a run has its line, and did not fail."""
  return any(r["id"] == identity and "error" not in r for r in read(file))


def append(file: pathlib.Path, record: Record) -> bool:
  """Adds a record whole, or returns False where its run is done already."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with open(file, "a+b") as f:
    with contextlib.suppress(OSError):  # some network disks have no locks: then be alone
      fcntl.flock(f, fcntl.LOCK_EX)
    if done(file, record["id"]):
      return False
    f.seek(0)
    whole = f.read().rfind(b"\n") + 1
    f.truncate(whole)
    f.write(json.dumps(record).encode() + b"\n")
    f.flush()
    os.fsync(f.fileno())
  return True


def check_writable(root: str) -> None:
  """Raises UserError unless a file can be written below `root`."""
  probe = pathlib.Path(root) / f".probe-{uuid.uuid4().hex}"
  try:
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(bytes(1 << 16))
  except OSError as e:
    raise UserError(
      f'The folder "{root}" cannot be written: {e.strerror}. Free some space or give another one.'
    ) from e
  finally:
    with contextlib.suppress(OSError):
      probe.unlink()
