"""The JAX side: a model as a jaxpr that is walked, and run again with captures and plants."""

from ckptdbg.models.jax_side.side import JaxSide

__all__ = ["JaxSide"]
