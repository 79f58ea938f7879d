"""What to compare: the YAML file that every command takes. Paths in it are relative to the file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ckptdbg.documents import line_of, parse_yaml, plain, read_text
from ckptdbg.errors import ConfigError

BUILT_IN = ("huggingface",)
"""Loaders that need no function of the user's."""
KNOWN_LOADERS = (
    f"expected {', '.join(BUILT_IN)}, module:function or file.py:function; a function of your own is called as "
    "load(path, **options)"
)
# what pydantic would say in its own terms
PLAIN = {
    "model_type": "keys and values",
    "dict_type": "keys and values",
    "path_type": "a path",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
}
# Where a mapping that is no file comes from, and what may be said about it.
DIRECTIONS, PLACES = ("from_hf", "to_hf"), ("to_memory", "to_disk")
MAPPING_KINDS: dict[str, dict[str, type | tuple[str, ...]]] = {
    "trace": {"trace": str, "arrays": str, "options": dict, "file": str},
    "torchtitan": {"torchtitan": str, "flavor": str, "model": str, "options": dict, "direction": DIRECTIONS},
    "maxtext": {
        "maxtext": str,
        "hooks": str,
        "scan": bool,
        "shapes": str,
        "options": dict,
        "direction": DIRECTIONS,
    },
    "maxtext_plan": {"maxtext_plan": str, "dsl": str, "shapes": str, "direction": DIRECTIONS},
    "transformers": {"transformers": bool, "direction": PLACES},
    "recover": {"recover": bool},
    "propose": {"propose": bool},
}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(_Record):
    """One side: how to load a model and how to call it."""

    loader: str
    """A built-in name, ``module:function`` or ``file.py:function``."""
    path: Path | None = None
    """The checkpoint; without it the loader is called with ``path=None``."""
    under: str | None = None
    """The key under which the checkpoint holds this model, where it holds more: names are those below it. A loader
    reads its checkpoint by itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the loader as keyword arguments."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """The model's own names of inputs, each with the Hugging Face name it stands for."""
    output: str | int | None = None
    """Key or index of the output that is compared."""

    @field_validator("loader")
    @classmethod
    def _named(cls, loader: str) -> str:
        module, colon, function = loader.rpartition(":")
        if loader not in BUILT_IN and not (colon and module.strip() and function.strip()):
            raise ValueError(f"unknown loader; found {loader!r}; {KNOWN_LOADERS}")
        return loader

    @model_validator(mode="after")
    def _one_part(self) -> ModelConfig:
        if self.under is not None and self.loader == "huggingface":
            raise ValueError("under is for checkpoints that hold more than a model; a Hugging Face folder is one model")
        return self


class ProbeConfig(_Record):
    """The inputs both models are run on: exactly one of random tokens, a prompt, ids or a file of arrays."""

    tokens: Literal["random", "cover"] | None = None
    """``cover``: every row of the vocabulary, every expert and more tokens than a sliding window, as far as they fit;
    ``batch`` and ``length`` are then the least."""
    prompt: str | None = None
    tokenizer: Path | None = None
    """A directory or file with a tokenizer, for ``prompt``."""
    ids: Path | None = None
    """A file of token ids (``.npy``, ``.json`` or text)."""
    inputs: Path | None = None
    """A ``.safetensors`` file with one array per input."""
    batch: int = Field(default=2, ge=1)
    length: int = Field(default=128, ge=2)
    """Tokens per row: faults of position encodings show late."""
    seed: int = Field(default=0, ge=0)
    attention_mask: Literal["left-padded"] | None = None
    pad: list[int] | None = None
    """Left padding of each batch row, in tokens."""

    @model_validator(mode="after")
    def _consistent(self) -> ProbeConfig:
        kinds = [name for name in ("tokens", "prompt", "ids", "inputs") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"found {', '.join(kinds) or 'nothing'}; expected exactly one of tokens, prompt, ids, inputs"
            )
        if (self.prompt is None) != (self.tokenizer is None):
            raise ValueError("prompt and tokenizer belong together")
        if self.tokens and self.batch == self.length:
            # token axes are told from each other by their size
            raise ValueError(f"batch and length are both {self.batch}; expected different sizes")
        if self.pad is not None and self.tokens:
            if len(self.pad) != self.batch:
                raise ValueError(f"pad has {len(self.pad)} numbers; expected one per batch row ({self.batch})")
            if min(self.pad) < 0 or max(self.pad) >= self.length:
                raise ValueError(f"pad is {self.pad}; expected 0 to {self.length - 1}")
        return self

    @property
    def padding(self) -> list[int] | None:
        """Left padding per row; ``left-padded`` without ``pad`` pads every row differently, the first not at all."""
        if self.pad is not None or self.attention_mask is None:
            return self.pad
        return [row * self.length // (2 * self.batch) for row in range(self.batch)]


class Config(_Record):
    """A whole config. Made by ``load_config``."""

    source: ModelConfig
    target: ModelConfig
    mapping: Path | dict[str, Any]
    """A mapping file, or one of the other places a mapping comes from: ``{trace: convert.py:convert}`` and the like.
    With ``file`` beside ``trace`` the mapping is that file, and its opaque ops may run the function."""
    probe: ProbeConfig = Field(default_factory=lambda: ProbeConfig(tokens="random"))
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    file: Path = Path("<config>")

    @field_validator("mapping", mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kinds = [kind for kind in MAPPING_KINDS if kind in value]
        if len(kinds) != 1:
            raise ValueError(
                f"found {value}; expected a path or one of {', '.join(f'{{{k}: ...}}' for k in MAPPING_KINDS)}"
            )
        _check_mapping(value, MAPPING_KINDS[kinds[0]])
        return value


def _check_mapping(asked: dict[str, Any], known: dict[str, type | tuple[str, ...]]) -> None:
    """Raises ValueError for a key that this kind of mapping does not take, or a value that the key does not."""
    words = {str: "text", bool: "true or false", dict: "keys and values"}
    for key, value in asked.items():
        if key not in known:
            raise ValueError(f"it has no key {key}; it takes {', '.join(known)}")
        kind = known[key]
        if isinstance(kind, tuple):
            good, wanted = value in kind, " or ".join(kind)
        elif key in MAPPING_KINDS and kind is bool:
            good, wanted = value is True, "true"
        else:
            good, wanted = isinstance(value, kind), words[kind]
        if not good:
            raise ValueError(f"{key} is {value!r}; expected {wanted}")


def load_config(path: str | Path, *, mapping: dict[str, Any] | None = None, needs_source: bool = True) -> Config:
    """Read, check and resolve a config file. ``ConfigError`` with file:line for whatever is wrong with it. ``mapping``
    stands for a mapping that it does not name. Where the source is not needed, one that is not there has no path."""
    path = Path(path)
    document = parse_yaml(read_text(path, ConfigError), str(path), ConfigError)
    if "file" in document:
        raise _unknown_key(document, ("file",), path)
    try:
        without = {} if mapping is None else {"mapping": mapping}
        config = Config.model_validate({**without, **plain(document), "file": path})
    except ValidationError as cause:
        raise _as_config_error(cause, document, path) from cause
    return _resolved(config, document, path, needs_source)


def _as_config_error(cause: ValidationError, document: Any, path: Path) -> ConfigError:
    """The first problem, with the line of the key it is about."""
    problem = cause.errors()[0]
    # pydantic names the branch of a union as part of the location: keys that the document lacks
    keys = tuple(key for key in problem["loc"] if _has(document, problem["loc"], key))
    if problem["type"] == "extra_forbidden":
        return _unknown_key(document, problem["loc"], path)
    where = f"{path}:{_line(document, keys)}"
    name = ".".join(map(str, keys)) or "config"
    if problem["type"] == "missing":
        missing = problem["loc"][-1]
        return ConfigError(f"{name} has no {missing}", where=where, hint=f"add {missing}:")
    text = PLAIN.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    text = text[:1].lower() + text[1:]
    if problem["type"] == "value_error":
        return ConfigError(f"{name}: {text}", where=where)
    return ConfigError(f"{name} is not right", where=where, found=repr(plain(problem["input"])), expected=text)


def _unknown_key(document: Any, keys: tuple[str | int, ...], path: Path) -> ConfigError:
    *outer, key = keys
    model: Any = {"source": ModelConfig, "target": ModelConfig, "probe": ProbeConfig}.get(
        str(outer[0]) if outer else ""
    )
    known = list((model or Config).model_fields)
    close = difflib.get_close_matches(str(key), [name for name in known if model or name != "file"], n=1)
    hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(n for n in known if model or n != 'file')}"
    name = ".".join(map(str, outer)) or "config"
    return ConfigError(f"{name} has no key {key}", where=f"{path}:{_line(document, keys)}", hint=hint)


def _has(document: Any, keys: tuple[str | int, ...], key: str | int) -> bool:
    node = document
    for step in keys:
        if (isinstance(node, dict) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        ):
            node = node[step]  # type: ignore[index]
            if step == key:
                return True
    return False


def _line(document: Any, keys: tuple[str | int, ...]) -> int:
    node, line = document, 1
    for key in keys:
        if not isinstance(node, dict | list):
            break
        line = line_of(node, key)
        node = node[key] if isinstance(node, list) or key in node else None  # type: ignore[index]
    return line


def _resolved(config: Config, document: Any, path: Path, needs_source: bool) -> Config:
    """Every path made absolute; ``ConfigError`` where a file is missing."""
    folder = path.resolve().parent

    def there(value: Path, *keys: str) -> Path:
        found = folder / value.expanduser()
        if not found.exists():
            where = f"{path}:{_line(document, keys)}"
            hint = f"paths are relative to {path.name}"
            raise ConfigError(f"{'.'.join(keys)}: no such file or directory", where=where, found=str(found), hint=hint)
        return found

    def side(name: Literal["source", "target"]) -> ModelConfig:
        model: ModelConfig = getattr(config, name)
        if name == "source" and not needs_source:
            path = None if model.path is None else folder / model.path.expanduser()
            return model.model_copy(update={"path": path if path is not None and path.exists() else None})
        loader, colon, function = model.loader.rpartition(":")
        changes: dict[str, Any] = {}
        if colon and loader.endswith(".py"):
            changes["loader"] = f"{there(Path(loader), name, 'loader')}:{function}"
        if model.path is not None:
            changes["path"] = there(model.path, name, "path")
        return model.model_copy(update=changes)

    files = {key: getattr(config.probe, key) for key in ("tokenizer", "ids", "inputs")}
    probe = {key: there(value, "probe", key) for key, value in files.items() if value is not None}
    mapping = config.mapping
    if isinstance(mapping, Path):
        mapping = there(mapping, "mapping")
    elif "file" in mapping:
        mapping = {**mapping, "file": there(Path(mapping["file"]), "mapping", "file")}
    return config.model_copy(
        update={
            "source": side("source"),
            "target": side("target"),
            "mapping": mapping,
            "probe": config.probe.model_copy(update=probe),
        }
    )
