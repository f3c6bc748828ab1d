"""What the scripts share: one-line errors, exit codes, and where compiled programs are kept."""

import ast
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

from lnjax.terminal import may_be_lost, printable

EXIT_REFUSED = 2
"""Wrong input (flags, config, data, checkpoint): told in one line, nothing was done."""


def tell(line: str) -> None:
    """Prints to standard error, which is where everything goes that is no result.

    What a terminal would act on is shown as `printable` shows it: names of files are among it. A
    line that cannot be written is lost, and the run goes on.
    """
    with may_be_lost():
        print(printable(line), file=sys.stderr, flush=True)


def keep_compiled() -> None:
    """Keeps what took a second or more to compile for the next run of the same program.

    In $JAX_COMPILATION_CACHE_DIR, else in ~/.cache/lnjax/compiled; there in a folder for each kind
    of processor, since a program compiled for one need not run on another with the same home.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        processor = platform.machine() + platform.processor()
        if (info := Path("/proc/cpuinfo")).exists():
            lines = info.read_text().splitlines()
            processor += next((line for line in lines if line.startswith("flags")), "")
        kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
        folder = str(Path.home() / ".cache" / "lnjax" / "compiled" / kind)
    jax.config.update("jax_compilation_cache_dir", folder)


def flags_parser(check: Callable[[], object] = lambda: None) -> Callable[[list[str]], list[str]]:
    """A parser for `absl.app.run` that tells what is wrong in one line and exits with 2.

    Args:
      check: called after parsing, to ask for values that absl reads late.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise flags.Error(f"unknown argument {rest[1]!r}; flags are --name=value")
            check()
        except (AttributeError, OSError, TypeError, ValueError, flags.Error) as error:
            tell(f"error: {_one_line(str(error))}")
            sys.exit(EXIT_REFUSED)
        return rest

    return parse


def _one_line(message: str) -> str:
    # ml_collections tells a misspelt key as the repr of a message, and an error inside a config
    # file with its whole traceback.
    if message[:1] in ("'", '"') and message[-1:] == message[:1]:
        message = ast.literal_eval(message)
    message = message.replace("\nDid you mean", ". Did you mean")
    return " ".join(message.rpartition("Error: ")[2].split())
