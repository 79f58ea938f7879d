"""The tool that makes the notebooks is tested along with them."""

from pathlib import Path

from ckptdbg.models.loaders.function import importable

with importable(Path(__file__).parents[2] / "tools"):
    import make_notebooks  # noqa: F401
