from imiad_jax.datasets.btad.btad_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
