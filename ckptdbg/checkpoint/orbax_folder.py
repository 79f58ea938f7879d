"""A tree that Orbax saved: a folder with ``_METADATA`` and one zarr array per leaf, in files or in one OCDBT database.

Read through tensorstore, without Orbax and JAX. ``_METADATA`` lists the leaves, and each array says its own shape and
dtype; a leaf is stored under its keys joined by dots.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from ckptdbg.checkpoint.base import Array, Checkpoint
from ckptdbg.checkpoint.dtypes import is_numeric
from ckptdbg.checkpoint.huggingface import read_json
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.checkpoint.training import OTHER, TRAINER, Keys
from ckptdbg.checkpoint.trees import parameter_names, tree_of
from ckptdbg.errors import CheckpointError

FILE = "_METADATA"
DATABASE = "manifest.ocdbt"
ARRAYS = ("jax.Array", "np.ndarray", "scalar")


class OrbaxCheckpoint(Checkpoint):
    """One such folder. What is read is held, and nothing else."""

    def __init__(self, path: Path, config: dict[str, Any] | None = None) -> None:
        metadata = read_json(path / FILE)
        leaves = _leaves(metadata, path / FILE)
        arrays = [keys for keys, kind in leaves.items() if kind in ARRAYS]
        names = parameter_names(arrays, str(path / FILE))
        if not names:
            raise CheckpointError("holds no arrays", where=str(path), expected="a tree that Orbax saved")
        self._stores = _open(path, metadata, {name: keys for keys, name in names.items()})
        specs = {name: _spec(name, store, path) for name, store in self._stores.items()}
        super().__init__(path, specs, config)
        self.left_out = {"/".join(k): TRAINER if k in arrays else OTHER for k in leaves if k not in names}

    def _read(self, name: str) -> Array:
        store = self._stores[name]
        elements = max(store.size, math.prod(store.chunk_layout.write_chunk.shape or ()))
        self._check_room(name, elements * store.dtype.numpy_dtype.itemsize)
        try:
            return store.read().result()
        except ValueError as cause:
            problem = f"tensor {name} cannot be read: {_reason(cause)}"
            raise CheckpointError(problem, where=str(self.path), hint="copy it again, all of its files") from cause

    def _check_room(self, name: str, size: int) -> None:
        """An array without bounds would end the process inside tensorstore, and not in an error."""
        try:
            np.empty(size, np.uint8)
        except (MemoryError, ValueError) as cause:
            problem = f"tensor {name} is said to be larger than this machine's memory"
            raise CheckpointError(problem, where=str(self.path), found=f"{size} bytes") from cause


def _leaves(metadata: dict[str, Any], file: Path) -> dict[Keys, str]:
    """Every leaf and what it is; what is empty (None, an empty dict) is left out."""
    try:
        entries = [
            (tuple(str(part["key"]) for part in entry["key_metadata"]), entry["value_metadata"])
            for entry in metadata["tree_metadata"].values()
        ]
        found = {keys: str(value["value_type"]) for keys, value in entries if not value.get("skip_deserialize")}
    except (KeyError, TypeError, AttributeError) as cause:
        raise CheckpointError("not the metadata of Orbax", where=str(file), found=repr(cause)) from cause
    if () in found:
        raise CheckpointError("holds one array without a name", where=str(file), expected="a tree that Orbax saved")
    return found


def _open(path: Path, metadata: dict[str, Any], keys: dict[str, Keys]) -> dict[str, Any]:
    """Every array, opened and not read."""
    try:
        import tensorstore
    except ImportError as cause:
        raise CheckpointError("needs tensorstore", where=str(path), hint="pip install 'ckptdbg[orbax]'") from cause
    database = (path / DATABASE).is_file()
    if metadata.get("use_ocdbt") and not database:
        raise CheckpointError(f"{DATABASE} is missing", where=str(path), hint="copy it again, all of its files")
    places = {name: _place(name, part, path) for name, part in keys.items()}
    # Older versions of Orbax left chunks of zeros out. In a database nothing gets lost by itself; files may.
    fill = database and not metadata.get("store_array_data_equal_to_fill_value", False)
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 10**8}})
    asked = {}
    for name, place in places.items():
        folder = f"{path.resolve()}/"
        files = {"driver": "file", "path": folder if database else f"{folder}{place}/"}
        asked[name] = tensorstore.open(
            {
                "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
                "kvstore": {"driver": "ocdbt", "base": files, "path": f"{place}/"} if database else files,
                "fill_missing_data_reads": fill,
            },
            open=True,
            read=True,
            context=context,
        )
    return {name: _opened(name, future, path) for name, future in asked.items()}


def _opened(name: str, future: Any, path: Path) -> Any:
    try:
        return future.result()
    except ValueError as cause:
        problem = f"tensor {name} cannot be opened: {_reason(cause)}"
        raise CheckpointError(problem, where=str(path), hint="copy it again, all of its files") from cause


def _place(name: str, keys: Keys, path: Path) -> str:
    """Where an array is stored, below the folder."""
    place = ".".join(keys)
    if any(part in ("", ".", "..") for part in place.split("/")):
        problem = f"tensor {name} is said to be in something that is no folder of this directory"
        raise CheckpointError(problem, where=str(path / FILE), found=repr(place))
    return place


def _spec(name: str, store: Any, path: Path) -> TensorSpec:
    dtype = store.dtype.numpy_dtype.name
    if not is_numeric(dtype):
        raise CheckpointError(f"tensor {name} has no numeric dtype", where=str(path), found=dtype)
    return TensorSpec(tuple(store.shape), dtype)


def write_orbax(
    folder: Path, specs: Mapping[str, TensorSpec], read: Callable[[str], Array], where: str, under: Keys = ()
) -> None:
    """Write a tree of dicts, below the keys ``under``, through Orbax's own checkpointer (OCDBT, zarr), one array in
    memory at a time. Raises OSError, and CheckpointError, which says ``where``."""
    try:
        import jax
        import orbax.checkpoint as ocp
    except ImportError as cause:
        raise CheckpointError("needs Orbax", where=where, hint="pip install 'ckptdbg[orbax]'") from cause

    stopped = Event()

    class Streaming(ocp.type_handlers.NumpyHandler):
        """Asks for each array when it is written, and waits until it is."""

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            for leaf, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                if stopped.is_set():
                    raise CancelledError
                for written in await super().serialize([read(leaf.name)], [info], [arg]):
                    written.result()
            return []

    handlers = (_Leaf, Streaming(deepcopy_host_arrays=False)), (jax.Array, ocp.type_handlers.ArrayHandler())
    registry = ocp.type_handlers.create_type_handler_registry(*handlers)
    tree = jax.tree.map(_Leaf, tree_of(specs, where, under))

    def save() -> None:
        with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as checkpointer:
            checkpointer.save(folder.resolve(), tree)

    try:
        # In a thread of its own. In one with an event loop, as a notebook has, Orbax starts another loop, and waits
        # for it for ever when an interruption has ended it.
        with ThreadPoolExecutor(1) as thread:
            saving = thread.submit(save)
            try:
                saving.result()
            except BaseException:
                stopped.set()
                raise
    except ValueError as cause:  # tensorstore's errors, those of the disk among them
        if code := re.search(r"os_error_code='(\d+)'", str(cause)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from cause
        raise CheckpointError(f"Orbax cannot write it: {_reason(cause)}", where=where) from cause


class _Leaf:
    """Stands in the tree for an array that is not there yet."""

    def __init__(self, name: str) -> None:
        self.name = name


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that Orbax's threads log: what goes wrong is raised."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _reason(cause: Exception) -> str:
    """tensorstore's words, without the specification that follows them."""
    return str(cause).split(" [")[0]
