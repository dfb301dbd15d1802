"""Run a notebook through papermill, its parameters checked before anything starts (papermill only warns)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import JanusError, UsageError, unknown
from ..settings.base import checked

TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def execute(notebook: str | Path, output: str | Path, parameters: Mapping[str, Any], **options: Any) -> Path:
    """Execute a copy of a notebook; the executed copy, complete up to the cell that failed if one did, is
    kept in `output`.

    Args:
        parameters: name → value; text is read as the type that the notebook's parameters cell states.
        options: papermill's own (`cwd`, `progress_bar`, …).

    Raises:
        UsageError: no such notebook, a parameter it does not have, a value of the wrong type; nothing was
            executed.
        JanusError: a cell failed; the message is that of its error.
    """
    try:
        import papermill
        from papermill.exceptions import PapermillExecutionError
    except ImportError as error:
        fault = f"running notebooks needs {error.name}: pip install 'janus-lora[notebooks]'"
        raise JanusError(fault) from None
    if not Path(notebook).is_file():
        raise UsageError(f"no notebook {notebook}")
    values = check(papermill.inspect_notebook(str(notebook)), parameters)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(str(notebook), str(output), values, **{"progress_bar": False} | options)
    except PapermillExecutionError as error:
        stopped = f"{Path(notebook).name} stopped at cell {error.exec_count}"
        raise JanusError(f"{stopped}: {error.ename}: {error.evalue}; see {output}") from None
    return Path(output)


def check(known: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Names and types against the notebook's own (`papermill.inspect_notebook`); the values, of their types.

    Raises:
        UsageError: a name that is not there, or a value of another type.
    """
    values = {}
    for name, value in parameters.items():
        if name not in known:
            raise unknown("parameter", name, known)
        hint = TYPES.get(str(known[name].get("inferred_type_name")))  # the notebook checks other types
        values[name] = checked(name, value, hint) if hint else value
    return values
