"""`ckptdbg convert`: a checkpoint made through the mapping, in either direction, or mended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdbg.cli.frame import Config, complain, guarded, progress, say

if TYPE_CHECKING:
    from ckptdbg.config import Config as ReadConfig
    from ckptdbg.mapping import Mapping
    from ckptdbg.weights.checkpoints import Tensors
    from ckptdbg.weights.convert import Conversion


@guarded
def convert(
    config: Config,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="A folder, or a file that ends in .safetensors or .msgpack."),
    ],
    reverse: Annotated[bool, typer.Option("--reverse", help="Make the source's tensors from the target's.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Diagnose first, and convert with the verified repairs of the mapping.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="Store floating-point tensors so.")] = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="safetensors (unless OUT says another), dcp, orbax or msgpack.")
    ] = None,
    under: Annotated[
        str, typer.Option(metavar="KEYS", help="orbax, msgpack: below these keys, such as params/params.")
    ] = "",
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="The most bytes in one safetensors file.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at OUT.")] = False,
) -> int:
    """Convert a checkpoint through the mapping, tensor by tensor. What is interrupted is gone on with (safetensors)."""
    from ckptdbg.checkpoint.shards import GO_ON
    from ckptdbg.checkpoint.writing import ANEW, SHARDED, format_of, is_file
    from ckptdbg.config import load_config
    from ckptdbg.errors import ConfigError
    from ckptdbg.weights.convert import parse_size, write

    if reverse and (fix or dtype):
        raise ConfigError("--reverse goes with neither --fix nor --dtype")
    read, size, single = load_config(config), parse_size(shard_size), is_file(out)
    sharded = format_of(out, format) == SHARDED
    with progress() as step:
        mapping = _mended(config, step) if fix else _mapping(read)
        if mapping is None:
            return 1
        conversion, beside = _conversion(read, mapping, reverse, dtype)
        extra = {} if single else _beside(beside) | ({"mapping.yaml": mapping.text} if fix else {})
        if fix and single:
            beside_it = out.with_suffix(".mapping.yaml")
            _check_free(beside_it, overwrite and beside_it.resolve() not in {f.resolve() for f in _inputs(read)})
        try:
            kept = write(
                conversion,
                out,
                format=format,
                under=tuple(under.split("/")) if under else (),
                shard_size=size,
                overwrite=overwrite,
                extra=extra,
                inputs=_inputs(read),
                progress=step,
            )
        except KeyboardInterrupt:
            complain(f"interrupted; {GO_ON if sharded else ANEW}")
            return 130
    for line in conversion.dropped:
        say(line)
    if kept:
        say(f"kept from an earlier run: {', '.join(kept)}")
    if fix and single:
        say(f"wrote {_write_mapping(mapping, out.with_suffix('.mapping.yaml'))}")
    say(f"wrote {out}: {len(conversion.specs())} tensors, read back and compared")
    return 0


def _inputs(config: ReadConfig) -> list[Path]:
    """Files of the user's own making."""
    file = config.mapping if isinstance(config.mapping, Path) else config.mapping.get("file")
    return [config.file, *([file] if file is not None else [])]


def _mapping(config: ReadConfig) -> Mapping:
    from ckptdbg.obtain import obtain_mapping
    from ckptdbg.weights.checkpoints import open_side

    source = open_side(config.source, "source", config.file)
    target = partial(open_side, config.target, "target", config.file)
    return obtain_mapping(config, source.specs, source.read, source.config or {}, target)


def _conversion(
    config: ReadConfig, mapping: Mapping, reverse: bool, dtype: str | None
) -> tuple[Conversion, Path | None]:
    """What to make of what, and the folder whose ``config.json`` belongs to the result."""
    from ckptdbg.errors import CkptdbgError
    from ckptdbg.obtain import open_named
    from ckptdbg.weights.convert import backward, forward

    source = open_named(config, "source", mapping)
    target: Tensors | None = None
    if reverse:
        return backward(mapping, source, open_named(config, "target", mapping)), config.source.path
    with suppress(CkptdbgError):  # it may be yet to come, or of a format of its own: only its dtypes are asked for
        target = open_named(config, "target", mapping)
    return forward(mapping, source, target, dtype), config.target.path


def _mended(config: Path, step: Callable[[str], None]) -> Mapping | None:
    """The mapping with its verified repairs; None, said, where what is wrong could not be mended."""
    from ckptdbg.session import open_session

    session = open_session(config)
    session.progress = step
    diagnosis = session.diagnosis
    open_ones = [f for f in diagnosis.findings if f.effect == "diverges" and not (f.repair and f.repair.verified)]
    for finding in diagnosis.findings:
        say(f"found: {finding.explanation}")
    if open_ones:
        complain(f"{len(open_ones)} findings could not be mended: nothing was written; see `ckptdbg compare`")
        return None
    return diagnosis.mapping


def _beside(path: Path | None) -> dict[str, str]:
    from ckptdbg.checkpoint.folders import find_config

    file = find_config(path) if path is not None else None
    return {"config.json": file.read_text(encoding="utf-8")} if file is not None else {}


def _check_free(path: Path, overwrite: bool) -> None:
    from ckptdbg.errors import MappingError

    if path.exists() and not overwrite:
        raise MappingError("there is a file here already", where=str(path), hint="--overwrite replaces it")


def _write_mapping(mapping: Mapping, path: Path) -> Path:
    from ckptdbg.report.files import write_text

    return write_text(path, mapping.text)
