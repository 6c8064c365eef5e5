from imiad_jax.datasets.mpdd.mpdd_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
