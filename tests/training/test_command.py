"""What the scripts share: compiled programs are found again by the next process."""

import pytest

from lnjax.training.command import tell
from tests import runs

PROGRAM = """
import jax
from lnjax.training.command import keep_compiled
keep_compiled()
print(jax.jit(lambda x: x * 3)(2.0))
"""


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.some(1)
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a file \x1b]0;title\x07\x1b[2J.txt", r"a file \x1b]0;title\x07\x1b[2J.txt"),
        ("\x9b31m \r \x08 \x7f", r"\x9b31m \r \x08 \x7f"),
        ("\u202egnp.exe\u2066 \u2028", r"\u202egnp.exe\u2066 \u2028"),
        ("half \ud800 of a pair", r"half \ud800 of a pair"),
        ("one\ndone: all is well", "one\n  done: all is well"),
        ("one:\n  two\tthree", "one:\n  two\tthree"),
        ("caf\u00e9 \u4e2d \U0001f469\u200d\U0001f52c <b>", None),
    ],
)
def test_no_text_moves_the_terminal(text, shown, capsys):
    tell(text)
    assert capsys.readouterr().err == f"{text if shown is None else shown}\n"
