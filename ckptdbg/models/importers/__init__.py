"""Mappings that other libraries have in code, found by name: what they do is traced like any conversion function.

One file per library, each with one verb: ``find(asked, sides) -> Conversion``. What a library does is run and
not restated.
"""

from ckptdbg.models.importers.base import Given
from ckptdbg.models.importers.find import find_conversion

__all__ = ["Given", "find_conversion"]
