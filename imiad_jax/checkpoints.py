"""What a long run keeps of itself on disk, so that one that was killed goes on where it was.

Orbax writes a checkpoint aside and renames it when it is whole. It has the State of the runs that
are done at once, how far they are, and the rows that their lines have so far.
"""

import contextlib
import fcntl
import logging
import pathlib
import shutil
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

from imiad_jax.types import State

_LOG = logging.getLogger(__name__)

BETWEEN = 0.1
"""Between two tasks a checkpoint is due after this share of the time that it is within one."""


class Checkpoint:
  """The checkpoint of runs that differ by their seeds and are done at once; a context manager."""

  def __init__(self, folder: pathlib.Path, minutes: float, rows: list[list[Any]]):
    """Makes nothing yet.

    Args:
      folder: of this checkpoint alone.
      minutes: a State is kept whenever so many have passed; between tasks after a tenth of them.
      rows: of the line of each run so far; the caller appends to them.
    """
    self._folder = folder.absolute()
    self._seconds, self._rows = 60 * minutes, rows
    self._last = time.monotonic()
    self._lock: Any = None

  def restore(self, like: State) -> tuple[State, int, int]:
    """Returns the State to begin with, its task, and the epochs of that task that it has passed.

    They are `like` and zeros where there is no checkpoint that fits, or another process is at the
    same runs. The rows are restored in place.
    """
    if not self._folder.exists() or not self._mine():
      return like, 0, 0
    try:
      with self._manager() as manager:
        if manager.latest_step() is None:
          return like, 0, 0
        args = ocp.args.Composite(
          state=ocp.args.StandardRestore(_kept(like)), place=ocp.args.JsonRestore()
        )
        found = manager.restore(manager.latest_step(), args=args)
    except (OSError, ValueError, KeyError, TypeError) as e:
      _LOG.warning("the checkpoint %s does not fit and is left out: %s", self._folder, e)
      return like, 0, 0
    place = found["place"]
    for mine, kept in zip(self._rows, place["rows"], strict=True):
      mine[:] = kept
    _LOG.info("goes on from %s: task %d", self._folder, place["task"] + 1)
    state = jax.tree.map_with_path(lambda path, x: found["state"].get(_name(path), x), like)
    return state, place["task"], place["epoch"]

  def keep(self, task: int, epoch: int, end: bool, state: State) -> None:
    """Writes a checkpoint if one is due: so many epochs of a task are passed, all of them at `end`.

    Replaces the one before.
    """
    now = time.monotonic()
    if now - self._last < self._seconds * (BETWEEN if end else 1) or not self._mine():
      return
    place = {"task": task, "epoch": epoch, "rows": self._rows}
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_kept(state)), place=ocp.args.JsonSave(place)
    )
    with self._manager() as manager:
      manager.save((manager.latest_step() or 0) + 1, args=args)
    self._last = time.monotonic()
    _LOG.info("kept in %s, in %.1f s", self._folder, self._last - now)

  def __enter__(self) -> "Checkpoint":
    """Returns this."""
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Removes what was kept of runs that ended, well or not; those that are stopped leave it."""
    ended = kind is None or issubclass(kind, Exception)
    if ended and (self._lock or (self._folder.exists() and self._mine())):
      shutil.rmtree(self._folder, ignore_errors=True)
      with contextlib.suppress(OSError):  # there are those of other runs
        self._folder.parent.rmdir()
    if self._lock:
      self._lock.close()
      self._lock = None

  def _manager(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(self._folder, options=options)

  def _mine(self) -> bool:
    """Whether no other process has this checkpoint; if so it is this one's until it ends."""
    if not self._lock:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._lock = open(self._folder / "lock", "wb")
      try:
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        self._lock.close()
        self._lock = None
    return self._lock is not None


def _kept(state: State) -> dict[str, Any]:
  """Returns a State's arrays by name, but for those without numbers, which Orbax refuses."""
  return {_name(path): x for path, x in jax.tree.leaves_with_path(state) if x.size}


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")
