"""Plug-ins are found by their file's name, and a wrong name is answered with the right one."""

import sys

import pytest

from imiad_jax import plugins
from imiad_jax.errors import UserError


def test_names_are_the_folders_listing():
  assert {"padim", "patchcore", "dne"} <= set(plugins.names("methods"))
  assert {"unsupervised", "continual"} <= set(plugins.names("settings"))
  assert {"synthetic", "mtd"} <= set(plugins.names("datasets"))
  assert "common" not in plugins.names("datasets") + plugins.names("backbones")


def test_a_checkout_that_is_not_installed_in_place_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, "imiad_jax.datasets", None)  # as if there were none
  with pytest.raises(UserError, match=r"not installed in place: its datasets.*pip install -e \."):
    plugins.names("datasets")


@pytest.mark.parametrize(
  ("kind", "given", "near"),
  [("methods", "patchcor", "patchcore"), ("settings", "continuall", "continual")],
)
def test_unknown_name_says_what_exists(kind, given, near):
  with pytest.raises(UserError) as e:
    plugins.load(kind, given)
  assert str(e.value).startswith(f'There is no {kind[:-1]} "{given}". Did you mean "{near}"?')
  assert all(name in str(e.value) for name in plugins.names(kind))


def test_no_hint_where_nothing_is_near():
  with pytest.raises(UserError, match=r'^There is no method "zzz"\. There are: '):
    plugins.load("methods", "zzz")


def test_backbone_is_found_by_its_variant():
  assert "efficientnet_lite0" in plugins.backbone("efficientnet_lite0").VARIANTS
  with pytest.raises(UserError, match='Did you mean "resnet18"'):
    plugins.backbone("resnet17")


def test_resolve_fills_defaults_and_refuses_unknown_names():
  def factory(a: int = 1, b: str = "x"):
    del a, b

  assert plugins.resolve("m", factory, {"b": "y"}) == {"a": 1, "b": "y"}
  with pytest.raises(UserError, match=r'no hyperparameter of m "bb"\. Did you mean "b"'):
    plugins.resolve("m", factory, {"bb": 1})
