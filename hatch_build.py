"""Puts the sample configs and the notebooks inside the wheel, where an installed ckptdbg looks for them."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShipSamples(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        # An editable install finds them in the checkout; copied into site-packages they would hide the package itself.
        if version == "editable":
            return
        for name in ("sample_configs", "notebooks"):
            folder = Path(self.root, name)
            if folder.is_dir() and any(folder.iterdir()):
                build_data["force_include"][str(folder)] = f"ckptdbg/{name}"
