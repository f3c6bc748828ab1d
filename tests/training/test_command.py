"""What the scripts share: compiled programs are found again by the next process."""

import pytest

from tests import runs

PROGRAM = """
import jax
from lnjax.training.command import keep_compiled
keep_compiled()
print(jax.jit(lambda x: x * 3)(2.0))
"""


@pytest.mark.parametrize("given", [False, True])
def test_compiled_programs_are_kept(given, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    env = {"HOME": str(tmp_path / "home"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    folder = tmp_path / "home" / ".cache" / "lnjax" / "compiled"
    if given:
        folder = tmp_path / "elsewhere"
        env["JAX_COMPILATION_CACHE_DIR"] = str(folder)

    def entries():
        done = runs.run(["-c", PROGRAM], **env)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) == 6.0
        return sorted(path.name for path in folder.rglob("*-cache"))

    first = entries()
    assert first
    assert entries() == first  # and no more: the second process compiled nothing
