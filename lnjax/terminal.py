"""What is said on standard error: fit for a terminal, and never worth the run."""

import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator

# Control characters (a terminal acts on them: colours, titles, the cursor), line separators, lone
# surrogates, and the marks that write a text from right to left, so that it reads as another.
_KINDS = ("Cc", "Zl", "Zp", "Cs")
_TURNS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    r"""`text` with what a terminal would act on written as an escape; tabs and line feeds stay.

    The lines after the first are indented, so that none of them passes for a message of its own: a
    file can have any name.

    >>> print(printable("a\x1b[31mb\r\ndone"))
    a\x1b[31mb\r
      done
    """
    shown = "".join(
        character.encode("unicode_escape").decode() if _acts(character) else character
        for character in text
    )
    return re.sub(r"\n(?=\S)", "\n  ", shown)


@contextlib.contextmanager
def may_be_lost() -> Iterator[None]:
    """What is said inside may be lost: the log may lie on a full disk, the terminal may be gone."""
    try:
        yield
    except OSError:
        # Python keeps what it could not write, and would end with 120 for it: a new stream for the
        # same descriptor has nothing to write, and is heard again once there is room.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr = open(
                sys.stderr.fileno(),
                "w",
                buffering=1,
                encoding=sys.stderr.encoding,
                errors=sys.stderr.errors,
                closefd=False,
            )


def _acts(character: str) -> bool:
    if character in "\n\t" or (character.isascii() and character.isprintable()):
        return False
    return character in _TURNS or unicodedata.category(character) in _KINDS
