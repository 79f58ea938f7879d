"""The plan that MaxText's conversion agent writes (``outputs/plan.json``), with its rules (``context/dsl.txt``).

The plan is a list of ``{maxtext, huggingface, op}`` with ``{i}`` for a layer's number; ``op`` names a rule, and the
file of rules says for each direction which steps it takes: ``scale``, ``adjust``, ``pad``, ``reshape``, ``transpose``,
``flatten``, ``squeeze``, ``expand_dims``. Both are read as data; nothing in them is run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.documents import dump_yaml, lists_in_line, parse_yaml, plain, read_text
from ckptdbg.errors import MappingError
from ckptdbg.mapping.file import Mapping as TensorMapping
from ckptdbg.mapping.templates import numbered

Direction = Literal["from_hf", "to_hf"]
Specs = Mapping[str, TensorSpec]
Shape = tuple[int, ...]
Steps = list[dict[str, Any]]
NOTHING = ("", "none", "identity", "direct", "direct_copy", "copy")
SIZE = re.compile(r"(?<![\w\"'])target_shape\[\d+\]")
CONFIG = re.compile(r"\bconfig\.((?:\w+\.)*)(\w+)")


@dataclass(frozen=True)
class Rules:
    """What each rule of a file does."""

    file: str
    rules: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Rules:
        # MaxText's own file has a list in brackets with an index in it, which YAML takes for another list
        text = SIZE.sub(r'"\g<0>"', read_text(path, MappingError))
        document = plain(parse_yaml(text, str(path), MappingError))
        rules = document.get("rules")
        if not isinstance(rules, dict):
            raise MappingError("no file of rules", where=str(path), expected="rules: {name: {logic: ...}}")
        return cls(str(path), rules)

    def ops(self, name: str, direction: Direction, source: Shape, target: Shape) -> Steps:
        """The ops of a mapping that a rule is for tensors of these shapes. Raises MappingError."""
        if name.lower() in NOTHING:
            return []
        if name not in self.rules:
            raise MappingError(f"there is no rule {name}", where=self.file, expected=", ".join(self.rules))
        try:
            params = self.rules[name].get("params") or {}
            steps = self.rules[name]["logic"][direction]["ops"]
        except (KeyError, TypeError, AttributeError) as error:
            expected = f"logic: {{{direction}: {{ops: [...]}}}}"
            what = f"rule {name} says nothing of {direction}"
            raise MappingError(what, where=self.file, expected=expected) from error
        found: Steps = []
        for step in steps:
            verb, value = (step, None) if isinstance(step, str) else next(iter(step.items()))
            if verb not in VERBS:
                what = f"rule {name} has a step that no op says"
                raise MappingError(what, where=self.file, found=verb, expected=", ".join(VERBS))
            found += VERBS[verb](_filled(value, params), source, target)
        return found


def read_plan(file: Path, rules: Rules, direction: Direction, source: Specs, target: Specs) -> TensorMapping:
    """The plan as a mapping. Sizes in reshapes and paddings are those of ``target``. Raises MappingError."""
    variables: dict[str, str] = {}
    entries = []
    for at, theirs, ours, rule in _items(file):
        pair = (theirs, ours) if direction == "from_hf" else (ours, theirs)
        shapes = [_shape(name, specs) for name, specs in zip(pair, (source, target), strict=True)]
        if None in shapes:  # of another variant of the model, as MaxText's own tables have them
            continue
        ops = rules.ops(rule, direction, *shapes)  # type: ignore[arg-type]
        for op in ops:
            _declare(op, variables, f"{file}: item {at}")
        entries.append(lists_in_line({"source": pair[0], "target": pair[1], **({"ops": ops} if ops else {})}))
    if not entries:
        raise MappingError("the plan is of no tensors of these checkpoints", where=str(file))
    document = {"version": 1, **({"variables": variables} if variables else {}), "entries": entries}
    return TensorMapping.loads(f"# from {file} ({direction})\n{dump_yaml(document)}", file=str(file))


def read_shapes(file: Path) -> dict[str, TensorSpec]:
    """MaxText's tensors by path, in float32, from JSON of names and shapes as its ``save_param.py`` writes it. Raises
    MappingError."""
    try:
        listed = json.loads(read_text(file, MappingError))
        paths = {_path(name): tuple(map(int, shape)) for name, shape in listed.items()}
    except (ValueError, TypeError, AttributeError) as error:
        expected = '{"name": [size, ...], ...}'
        raise MappingError("no file of shapes", where=str(file), found=str(error), expected=expected) from error
    return {name: TensorSpec(shape, "float32") for name, shape in paths.items()}


def plan_direction(file: Path, source: Specs) -> Direction:
    """Told from the source's names. Raises MappingError."""
    for _, theirs, ours, _ in _items(file):
        if theirs != ours and _shape(theirs, source) is not None:
            return "from_hf"
        if theirs != ours and _shape(ours, source) is not None:
            return "to_hf"
    raise MappingError("the plan is of no tensor of the source", where=str(file), found=", ".join(list(source)[:3]))


def _items(file: Path) -> Iterator[tuple[int, str, str, str]]:
    """Number, Hugging Face's name, MaxText's as a path, and the rule of each item."""
    for at, item in enumerate(_decoded(file), 1):
        try:
            ours, theirs, rule = item["maxtext"], item["huggingface"], item.get("op")
            ours, theirs = ([name] if isinstance(name, str) else list(name) for name in (ours, theirs))
            rule = re.sub(r"\(.*", "", rule or "").strip()
        except (KeyError, TypeError, AttributeError) as error:
            what, expected = f"item {at} of the plan is none", "{maxtext: name, huggingface: name, op: rule}"
            raise MappingError(what, where=str(file), found=item, expected=expected) from error
        if len(ours) != len(theirs):
            found = f"{len(ours)} of MaxText for {len(theirs)} of Hugging Face"
            what = f"item {at} of the plan joins tensors, which no rule says how to"
            raise MappingError(what, where=str(file), found=found)
        for own, their in zip(ours, theirs, strict=True):
            yield at, str(their), _path(str(own)), rule


def _path(key: str) -> str:
    """MaxText's key as a path, without its root."""
    return key.removeprefix("params-").replace("-", "/")


def _decoded(file: Path) -> list[Any]:
    """The agent writes the model's answer as one JSON text, in a fence as often as not."""
    value: Any = read_text(file, MappingError)
    try:
        while isinstance(value, str):
            value = json.loads(re.sub(r"^\s*```\w*|```\s*$", "", value))
    except ValueError as error:
        raise MappingError(f"no JSON ({error})", where=str(file)) from error
    if not isinstance(value, list):
        raise MappingError("no plan", where=str(file), found=type(value).__name__, expected="a list of items")
    return value


def _shape(name: str, specs: Specs) -> Shape | None:
    """Of the tensors that a name with placeholders stands for; None where there are none."""
    shapes = {spec.shape for own, spec in specs.items() if numbered(name).fullmatch(own)}
    if len(shapes) > 1:
        found = ", ".join(map(str, sorted(shapes)))
        hint = "list them in the plan one by one"
        raise MappingError(f"the layers of {name} are of several shapes", found=found, hint=hint)
    return shapes.pop() if shapes else None


def _filled(value: Any, params: Mapping[str, Any]) -> Any:
    """A step's value with a rule's parameters in their places."""
    if not isinstance(value, str):
        return value
    for name, meaning in params.items():
        value = re.sub(rf"\b{re.escape(str(name))}\b", f"({meaning})", value)
    return re.sub(r"(?:np\.|math\.)?sqrt(\([^()]*\))", r"(\1 ** 0.5)", value)


def _declare(op: dict[str, Any], variables: dict[str, str], where: str) -> None:
    """Paths into the config become variables: of a model of text alone, its fields are not under ``text_config``."""
    for key, value in op.items():
        if isinstance(value, str):
            for path, name in CONFIG.findall(value):
                variables[name] = f"{path}{name} | {name}" if path else name
            op[key] = CONFIG.sub(r"\2", value)
            if "(" in re.sub(r"(?<!\w)\(", "", op[key]):
                raise MappingError("a function that no expression has", where=where, found=value)


def _reshape(value: Any, source: Shape, target: Shape) -> Steps:
    shape = tuple(reversed(target)) if str(value).startswith("reverse") else target
    return [{"reshape": list(shape)}]


def _pad(value: Any, source: Shape, target: Shape) -> Steps:
    """Rows are added, or left out where the target has fewer; ``null`` leaves an axis as it is."""
    found: Steps = []
    for axis, asked in enumerate(value):
        if asked is None or source[axis] == target[axis]:
            continue
        grows = target[axis] > source[axis]
        found.append(
            {"pad": target[axis], "axis": axis} if grows else {"slice": axis, "start": 0, "stop": target[axis]}
        )
    return found


VERBS: dict[str, Callable[[Any, Shape, Shape], Steps]] = {
    "scale": lambda value, *_: [{"scale": value}],
    "adjust": lambda value, *_: [{"add": value}],
    "pad": _pad,
    "reshape": _reshape,
    "transpose": lambda value, *_: [{"transpose": list(value)}],
    "flatten": lambda _, source, target: [{"reshape": [math.prod(source)]}],
    "squeeze": lambda value, *_: [{"squeeze": value}],
    "expand_dims": lambda value, *_: [{"expand": value, "size": 1}],
}
