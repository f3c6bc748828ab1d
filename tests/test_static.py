"""What the linter, the formatter and the type checker say of the whole repository."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


# Which packages pyrefly sees must not depend on the python3 that is first on PATH.
PYREFLY = ["pyrefly", "check", "--summary=none", "--python-interpreter-path", sys.executable]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check", "--diff"], PYREFLY],
    ids=lambda command: " ".join(command[:2]),
)
def test_static(command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}", pytrace=False)
