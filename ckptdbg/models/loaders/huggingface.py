"""The built-in loader ``huggingface``: a folder with ``config.json``, read with transformers, never from the hub.

Since transformers 5 the names on disk may differ from those in memory (fused experts, tied heads, base prefixes).
Mappings speak of the names on disk, or of those in memory; what the model makes of one is never restated here: tensors
are sent through transformers' own loading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ckptdbg.checkpoint import open_checkpoint
from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.errors import LoaderError
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.naming import names_in_memory
from ckptdbg.models.loaders.call import damage
from ckptdbg.models.loaders.loaded import Loaded
from ckptdbg.models.records import Array


@dataclass
class HuggingFace(Loaded):
    """A transformers model; mapping names are the keys on disk."""

    checkpoint: Any = None
    model_class: Any = None
    model_config: Any = None
    tied: dict[str, str] = field(default_factory=dict)
    """Names in memory of tensors that have another there as well, and the other."""

    def read(self, name: str) -> Array:
        return self.checkpoint.read(name)

    def to_parameters(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """Always through transformers, in float64: a name that both sides share may still hide a conversion."""
        import torch

        state = {name: _as_float64(read(name)) for name in self.specs if name not in self.unused}
        with quiet():
            model = self.model_class.from_pretrained(
                None, config=self.model_config, state_dict=state, dtype=torch.float64
            )
        values = model.state_dict()
        return {name: values[name].numpy() for name in self.side.parameters()}

    def named_for(self, mapping: TensorMapping, which: Literal["source", "target"]) -> Loaded:
        """With ``InMemory`` where the mapping speaks of names in memory."""
        names = names_in_memory(mapping, which, self.specs, self.side.parameters(), self.tied)
        return self if names is None else InMemory(self, names)


class InMemory(Loaded):
    """The same model; mapping names are the keys of its ``state_dict()``."""

    def __init__(self, model: HuggingFace, names: Sequence[str]) -> None:
        own = model.side.parameters()
        self._model, self._dtype = model, _stored_dtype(model.specs)
        specs = {name: TensorSpec(own[name].shape, self._as_stored(own[name].dtype)) for name in names}
        super().__init__(side=model.side, config=model.config, specs=specs, write=model.write)

    @cached_property
    def _values(self) -> dict[str, Array]:
        return self._model.to_parameters(self._model.read)

    def _as_stored(self, dtype: str) -> str:
        return dtype if as_dtype(dtype).kind in "iub" else self._dtype

    def read(self, name: str) -> Array:
        """As stored: what the tensors on disk become, with none of the casts to the precision of a run."""
        return self._values[name].astype(as_dtype(self.specs[name].dtype))

    def to_parameters(self, read: Callable[[str], Array]) -> dict[str, Array]:
        """Tied ones that the mapping does not speak of are given with the others."""
        named = {name: name if name in self.specs else self._model.tied[name] for name in self.side.parameters()}
        return {name: read(own) for name, own in named.items()}


def _stored_dtype(specs: Mapping[str, TensorSpec]) -> str:
    """The floating-point dtype that holds every tensor of a checkpoint."""
    floating = {spec.dtype for spec in specs.values() if as_dtype(spec.dtype).kind not in "iub"}
    return floating.pop() if len(floating) == 1 else "float32" if "float64" not in floating else "float64"


def load_huggingface(
    path: Path | None,
    *,
    options: Mapping[str, Any],
    inputs: Mapping[str, str],
    output: str | int | None,
    precision: str,
) -> Loaded:
    """Load a checkpoint folder. ``options`` go to ``from_pretrained`` (``attn_implementation``,
    ``experts_implementation``); ``architecture`` overrides the class that config.json names. Raises LoaderError.
    """
    from ckptdbg.models.loaders.load import config_beside
    from ckptdbg.models.loaders.write import torch_writer

    if path is None:
        raise LoaderError("the loader huggingface needs a path", expected="a folder with config.json and safetensors")
    config = config_beside(path)
    if config is None:
        raise LoaderError("no config.json", where=str(path), expected="a folder written by save_pretrained")
    try:
        import torch
        import transformers

        from ckptdbg.models.torch_side import TorchSide
    except ImportError as error:
        raise LoaderError(
            f"the loader huggingface needs torch and transformers ({error})",
            hint="pip install 'ckptdbg[transformers]'",
        ) from error
    options = dict(options)
    model_class = model_class_of(transformers, options.pop("architecture", None), config, path)
    dtype = getattr(torch, precision, None)
    if not isinstance(dtype, torch.dtype):
        raise LoaderError("unknown precision", found=precision, expected="float32, float64, bfloat16 or float16")
    model, unused = _from_pretrained(model_class, path, dtype, options)
    model.config.use_cache = False  # a cache would be returned beside the logits and keeps every key and value alive
    checkpoint = open_checkpoint(path)
    side = TorchSide(model, output=output, rename_inputs=dict(inputs))
    return HuggingFace(
        side=side,
        config=config,
        specs=dict(checkpoint.specs),
        unused=unused,
        write=torch_writer(model, side),
        checkpoint=checkpoint,
        model_class=model_class,
        model_config=model.config,
        tied=dict(model.all_tied_weights_keys),
    )


def _from_pretrained(
    model_class: Any, path: Path, dtype: Any, options: Mapping[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The model, every parameter of it from the checkpoint, and the checkpoint's tensors that it has no use for."""
    try:
        with quiet():
            # Another shape is not ignored: `complete` says which tensor it is, which transformers only logs.
            model, info = model_class.from_pretrained(
                path,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except Exception as error:
        raise LoaderError(
            f"transformers could not load {model_class.__name__}: {type(error).__name__}: {error}",
            where=str(path),
            found=damage(path),
        ) from error
    complete(info, path, model_class.__name__)
    return model, tuple(sorted(info["unexpected_keys"]))


def model_class_of(transformers: Any, chosen: str | None, config: dict[str, Any], path: Path) -> Any:
    """The class that ``config.json`` in the folder ``path`` names. Raises LoaderError."""
    names = [chosen] if chosen else config.get("architectures") or []
    for name in names:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise LoaderError(
        "config.json names no architecture that transformers has",
        where=str(path / "config.json"),
        found=", ".join(names) or "no architectures",
        hint="set options: {architecture: NAME}, or load the model with a function of your own",
    )


def complete(info: Mapping[str, Any], where: Path | str, name: str) -> None:
    """A parameter that the checkpoint lacks would be random: nothing compared with it would mean anything."""
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if missing or mismatched:
        shapes = [f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in mismatched]
        what = [*missing, *shapes]
        raise LoaderError(
            f"{name} has parameters that this checkpoint does not hold",
            where=str(where),
            found=f"{len(what)} missing or of another shape: {', '.join(what[:3])}{', ...' if len(what) > 3 else ''}",
            hint="another architecture may fit: options: {architecture: NAME}",
        )


def _as_float64(value: Array) -> Any:
    import torch

    value = np.asarray(value)
    floating = value.dtype.kind not in "iub"  # bfloat16 and float8 of ml_dtypes have kind V
    # A copy: transformers may keep the tensors it is given, and probes must not be written to.
    return torch.from_numpy(np.array(value, dtype=np.float64 if floating else value.dtype, order="C"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or load reports: what is missing is reported as an error of our own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
