"""All faults that can be planted in a sample conversion, by name: bugs that public converters have had."""

from __future__ import annotations

from ckptdbg.samples.definition_faults import DEFINITION_FAULTS
from ckptdbg.samples.fault import Fault
from ckptdbg.samples.mapping_faults import MAPPING_FAULTS
from ckptdbg.samples.weight_faults import WEIGHT_FAULTS

FAULTS: dict[str, Fault] = {**MAPPING_FAULTS, **WEIGHT_FAULTS, **DEFINITION_FAULTS}


def list_faults(pair: str | None = None) -> list[Fault]:
    """The faults that can be planted in ``pair``, or all."""
    return [fault for fault in FAULTS.values() if pair is None or fault.applies(pair)]
