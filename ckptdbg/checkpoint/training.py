"""What a trainer keeps beside the model: none of it is a tensor that a mapping speaks of."""

from __future__ import annotations

from collections.abc import Collection

Keys = tuple[str, ...]
"""The keys from the root of a nested checkpoint to one of its leaves."""

# Root keys of torchtitan's checkpoints and of the state dicts in torch's own examples; of flax's TrainState.
STATES = frozenset(
    {"optimizer", "optimizers", "optim", "opt_state", "lr_scheduler", "lr_schedulers", "dataloader", "train_state"}
)
STEP = ("step",)
# Why something is left out.
TRAINER = "the trainer's"
OTHER = "no tensors"


def beside_the_model(paths: Collection[Keys]) -> set[Keys]:
    """Those leaves that are a trainer's. By their place at the root, so that a module called ``optimizer`` within the
    model stays; nothing at all where there would be nothing else."""
    roots = {path[0] for path in paths if path}
    counted = bool(roots & (STATES | {"params"}))
    found = {path for path in paths if (len(path) > 1 and path[0] in STATES) or (path == STEP and counted)}
    return found if len(found) < len(set(paths)) else set()
