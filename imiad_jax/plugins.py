"""Methods, settings, data sets and backbones are found by the name of their file."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from imiad_jax.errors import UserError


def names(kind: str) -> list[str]:
  """Returns the names of a kind ("methods", "settings", "datasets", "backbones"), sorted.

  Raises UserError where Python takes the package from a checkout that is not installed in place:
  its data sets lie beside the package, and only an installation puts them into it.
  """
  try:
    package = importlib.import_module(f"imiad_jax.{kind}")
  except ModuleNotFoundError as error:
    if error.name != f"imiad_jax.{kind}":
      raise
    raise UserError(
      f"Python takes imiad_jax from the checkout {Path(__file__).parents[1]}, which is not "
      f"installed in place: its {kind} are not found. Run `python -m pip install -e .` in it, or "
      "start from another folder to use the installed package."
    ) from None
  found = [m.name for m in pkgutil.iter_modules(package.__path__)]
  return sorted(n for n in found if n != "common")


def check(what: str, given: str, known: Iterable[str]) -> None:
  """Raises UserError with the nearest match unless `given` is one of `known`."""
  known = sorted(known)
  if given in known:
    return
  near = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
  hint = f' Did you mean "{near[0]}"?' if near else ""
  raise UserError(f'There is no {what} "{given}".{hint} There are: {", ".join(known)}.')


def load(kind: str, name: str) -> ModuleType:
  """Imports a plug-in's module, or raises UserError with what exists."""
  check(kind.removesuffix("s"), name, names(kind))
  return importlib.import_module(f"imiad_jax.{kind}.{name}")


def backbone(name: str) -> ModuleType:
  """Returns the module whose VARIANTS has `name`, or raises UserError with what exists."""
  modules = [importlib.import_module(f"imiad_jax.backbones.{n}") for n in names("backbones")]
  owner = {variant: module for module in modules for variant in module.VARIANTS}
  check("backbone", name, owner)
  return owner[name]


def defaults(fn: Callable[..., Any]) -> dict[str, Any]:
  """Returns the keyword arguments of a factory with their defaults: its hyperparameters."""
  return {
    p.name: p.default
    for p in inspect.signature(fn).parameters.values()
    if p.default is not inspect.Parameter.empty
  }


def need(ok: bool, name: str, value: Any, expected: str) -> None:
  """Raises ValueError, which the caller of a factory turns into a UserError, unless `ok`."""
  if not ok:
    raise ValueError(f"{name} is {value}, but should be {expected}")


def resolve(what: str, fn: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
  """Returns `given` completed with the defaults of `fn`; raises UserError for unknown names."""
  known = defaults(fn)
  for key in given:
    check(f"hyperparameter of {what}", key, known)
  return {**known, **given}
