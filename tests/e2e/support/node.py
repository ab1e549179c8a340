"""Runs the JavaScript clients: one script a library, one named case a run."""

import pathlib
import re
import subprocess

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "node"


def cases(script: str) -> list[str]:
    """The names of a script's cases, read from its text."""
    return re.findall(r"^cases\.(\w+) =", (FOLDER / script).read_text(), re.MULTILINE)


def run(script: str, *arguments: str, patience: float = 30) -> str:
    """Runs a script; a failure shows what it printed."""
    done = subprocess.run(
        ["node", script, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=patience
    )
    assert done.returncode == 0, f"{script} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout
