"""Mappings that other libraries have in code, found by name: what they do is traced like any conversion function.

One file per library, each with one verb: ``find(asked, sides) -> Imported``. What a library does is run, not restated.
"""

from ckptdbg.models.importers.base import Imported, Sides
from ckptdbg.models.importers.find import find_conversion

__all__ = ["Imported", "Sides", "find_conversion"]
