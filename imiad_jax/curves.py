"""What a method logs while it learns, epoch by epoch: CSV files, and TensorBoard where wanted.

A file is <results>/<setting>/<data set>/curves/<method>-<id>.csv, with a line for each log of an
epoch. Of a run that went on from a checkpoint it has the epochs since then.
"""

import csv
import os
import pathlib
from typing import Any

import numpy as np

from imiad_jax import records
from imiad_jax.errors import UserError
from imiad_jax.types import Logs, Run


def path(root: str, run: Run, identity: str) -> pathlib.Path:
  """Returns the file of a run's curves."""
  return records.path(root, run).parent / "curves" / f"{run.method}-{identity}.csv"


class Curves:
  """The curves of runs that are done at once, each to its own file."""

  def __init__(self, files: list[pathlib.Path], board: str = ""):
    """Writes nothing yet; `board` is a folder for TensorBoard, "" for none.

    Raises:
      UserError: TensorBoard's files cannot be written without TensorFlow and TensorBoard.
    """
    self._files = files
    self._rows: list[list[tuple[int, int, str, float]]] = [[] for _ in files]
    self._writers = [_writer(pathlib.Path(board) / file.stem) for file in files if board]
    self._steps = 0

  def add(self, task: int, epoch: int, logs: Logs) -> None:
    """Takes the logs of an epoch, each a scalar, or [r] where there are several runs."""
    self._steps += 1
    values = {name: np.reshape(np.asarray(value), -1) for name, value in logs.items()}
    for r, rows in enumerate(self._rows):
      rows += [(task, epoch, name, float(value[r])) for name, value in values.items()]
    for r, writer in enumerate(self._writers):
      writer.write_scalars(self._steps, {name: float(value[r]) for name, value in values.items()})

  def write(self) -> None:
    """Writes the files of those that logged something, each whole or not at all."""
    for file, rows in zip(self._files, self._rows, strict=True):
      if not rows:
        continue
      file.parent.mkdir(parents=True, exist_ok=True)
      part = file.with_suffix(f".{os.getpid()}.part")
      with open(part, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(("task", "epoch", "log", "value"))
        writer.writerows(rows)
      part.replace(file)
    for writer in self._writers:
      writer.close()


def _writer(folder: pathlib.Path) -> Any:
  try:
    from clu.metric_writers import SummaryWriter
  except ImportError as e:
    raise UserError(
      "TensorBoard's files need the packages tensorflow and tensorboard "
      f'({e}): python -m pip install ".[tensorboard]", or leave config.tensorboard empty; the '
      "curves are in CSV files as well."
    ) from e
  return SummaryWriter(str(folder))
