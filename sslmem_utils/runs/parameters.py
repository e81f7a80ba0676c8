"""Typed parameters of a notebook: read from its parameters cell, checked before and while it runs.

The first code cell of a notebook is tagged `parameters` and holds lines `name: type = default  # help`. The types are
`int`, `float` (a whole number will do), `bool`, `str`, `list[T]` and `T | None`. The same checker serves the command
line, which reads the cell without running it, and the notebook itself.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpecError

TAG = "parameters"
INJECTED = "# Parameters"  # first line of the cell that papermill injects
_SCALARS = {"int": int, "float": float, "bool": bool, "str": str}
_NO_TYPE = "a parameter cannot have the type {!r}; use int, float, bool, str or list[...]."
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `kind` is its annotation as text, such as `list[int]`."""

    name: str
    kind: str
    default: Any
    help: str = ""


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook as plain JSON data; a file that is not a notebook is a SpecError."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(notebook["cells"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise SpecError(f"{path.name} is not a Jupyter notebook; restore it from version control.") from None
    return notebook


def source(cell: dict[str, Any]) -> str:
    """A cell's source as one text (nbformat also allows a list of lines)."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def declared(notebook: dict[str, Any], name: str) -> dict[str, Parameter]:
    """Parameters of a notebook (plain JSON data), read from its tagged cell without running it."""
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "code" and TAG in cell.get("metadata", {}).get("tags", []):
            return parse_cell(source(cell), name)
    raise SpecError(f"notebook {name} has no cell tagged {TAG!r}; tag its first code cell so.")


def parse_cell(text: str, name: str) -> dict[str, Parameter]:
    """Parameters of one cell's source: names, types, literal defaults and the comment behind each as help."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign | ast.AugAssign):
            raise SpecError(f"notebook {name}: `{ast.unparse(node)}` has no type; write `name: type = default`.")
        if not isinstance(node, ast.AnnAssign):
            continue
        parameter = _parameter(node, comments.get(node.end_lineno or node.lineno, ""), name)
        found[parameter.name] = parameter
    if "profile" not in found:
        raise SpecError(f'notebook {name} has no parameter `profile: str = "quick"`; add it.')
    return found


def _parameter(node: ast.AnnAssign, comment: str, name: str) -> Parameter:
    written = f"notebook {name}: `{ast.unparse(node)}`"
    if not isinstance(node.target, ast.Name) or node.value is None:
        raise SpecError(f"{written} is not of the form `name: type = default`.")
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise SpecError(f"{written} has a default that is not a literal value; write it out.") from None
    parameter = Parameter(node.target.id, kind_of(node.annotation), default, comment)
    if not fits(parameter.kind, default):
        raise SpecError(f"{written} has a default that is not {words(parameter.kind)}; change the type or the default.")
    return parameter


def kind_of(annotation: Any) -> str:
    """An annotation (an expression tree, a type or a text) as text in one spelling."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = annotation.value
    if isinstance(annotation, ast.AST):
        return ast.unparse(annotation)
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else annotation
    try:
        return ast.unparse(ast.parse(str(text).replace("NoneType", "None"), mode="eval"))
    except SyntaxError:
        raise SpecError(_NO_TYPE.format(annotation)) from None


def _parts(kind: str) -> tuple[str, bool]:
    """The type without `| None`, and whether None is allowed."""
    names = [part.strip() for part in kind.split("|")]
    return "|".join(part for part in names if part != "None"), "None" in names


def _item(kind: str) -> str | None:
    match = re.fullmatch(r"list(?:\[(.+)\])?", kind)
    return None if match is None else match[1] or "str"


def fits(kind: str, value: Any) -> bool:
    """Whether a value is of the type, strictly: True is no int, "true" no bool, 3.0 no int; 3 is a float."""
    kind, optional = _parts(kind)
    if value is None:
        return optional
    if item := _item(kind):
        return isinstance(value, list) and all(fits(item, part) for part in value)
    if kind not in _SCALARS:
        raise SpecError(_NO_TYPE.format(kind))
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is _SCALARS[kind]


def words(kind: str) -> str:
    """The type in words, for messages."""
    kind, optional = _parts(kind)
    item = _item(kind)
    text = f"a list ({words(item)} each)" if item else _WORDS.get(kind, kind)
    return f"{text} or nothing" if optional else text


def check(values: dict[str, Any], parameters: dict[str, Parameter], where: str) -> dict[str, Any]:
    """`values` if every name is a parameter and every value of its type, else a SpecError of one sentence."""
    for name, value in values.items():
        if name not in parameters:
            raise SpecError(unknown("parameter", name, list(parameters), where))
        kind = parameters[name].kind
        if not fits(kind, value):
            raise SpecError(f"{where}: parameter {name!r} must be {words(kind)} ({kind}), found {value!r}.")
    return values


def unknown(what: str, name: str, known: list[str], where: str = "") -> str:
    """One sentence about a name that does not exist, with the closest ones that do."""
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known) or 'none'}."
    return f"{where}{': ' if where else ''}unknown {what} {name!r}; {hint}"


def from_text(parameter: Parameter, text: str, where: str) -> Any:
    """The value that `text` (from the command line) stands for, by the parameter's own type."""
    kind, optional = _parts(parameter.kind)
    wrong = f"{where}: parameter {parameter.name!r} must be {words(parameter.kind)}, found {text!r}."
    if optional and text.lower() in ("none", "null", ""):
        return None
    if kind == "str":
        return text
    if item := _item(kind):
        if text.lstrip().startswith("["):
            value = _json(text)
        else:
            part = Parameter(parameter.name, item, None)
            try:
                value = [from_text(part, piece.strip(), where) for piece in text.split(",") if text.strip()]
            except SpecError:
                raise SpecError(wrong) from None
    elif kind == "bool":
        value = {"true": True, "false": False}.get(text.lower())
    else:
        value = _json(text)
        value = float(value) if kind == "float" and type(value) is int else value
    if value is None or not fits(parameter.kind, value):
        raise SpecError(wrong)
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def in_namespace(namespace: dict[str, Any], where: str) -> dict[str, Any]:
    """Parameters and their values in a running notebook, checked; names papermill injected in vain are refused.

    Only cells that papermill injected are searched for unknown names, so that the start cell may be run again later
    in an interactive session, when the namespace is full of other names.
    """
    annotations = namespace.get("__annotations__", {})
    parameters = {name: Parameter(name, kind_of(kind), None) for name, kind in annotations.items()}
    if "profile" not in parameters:
        raise SpecError(f'{where}: run the parameters cell first; it must hold `profile: str = "quick"`.')
    injected = {name: namespace.get(name) for name in _injected(namespace)}
    values = {name: namespace[name] for name in parameters if name in namespace}
    return check({**injected, **values}, parameters, where)


def _injected(namespace: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for cell in namespace.get("In", []):
        if not cell.startswith(INJECTED):
            continue
        for node in ast.parse(cell).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
