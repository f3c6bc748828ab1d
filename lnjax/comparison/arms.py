"""Arms: what is changed in a config, read from ``--arms=norm:layer,none``."""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Arm(NamedTuple):
    """One way to run a config."""

    changes: dict[str, str]  # key -> value, as it is typed

    @property
    def name(self) -> str:
        """What it is called in tables, legends and folders: "norm=layer,batch_size=4"."""
        return ",".join(f"{key}={value}" for key, value in self.changes.items())


def parse(texts: Sequence[str]) -> list[Arm]:
    """The arms of several ``key:value,value``, one for each combination of their values.

    Raises:
      ValueError: a text is not of that form, or a key or an arm stands there twice.

    >>> [arm.name for arm in parse(["norm:layer,none", "batch_size:128,4"])]
    ['norm=layer,batch_size=128', 'norm=layer,batch_size=4', \
'norm=none,batch_size=128', 'norm=none,batch_size=4']
    """
    axes: list[tuple[str, list[str]]] = []
    for text in texts:
        key, colon, values = text.partition(":")
        listed = [value.strip() for value in values.split(",")]
        if not colon or not key.strip() or not all(listed):
            raise ValueError(f"--arms={text}: expected key:value,value as in norm:layer,none")
        if any("/" in value for value in listed):
            raise ValueError(f"--arms={text}: a value names a folder, so it has no /")
        axes.append((key.strip(), listed))
    if twice := _repeated(key for key, _ in axes):
        raise ValueError(f"--arms: the key {twice} stands there twice; give it all values at once")
    for key, listed in axes:
        if value := _repeated(listed):
            raise ValueError(f"--arms={key}: the value {value} stands there twice")
    return [
        Arm(dict(zip([key for key, _ in axes], values, strict=True)))
        for values in itertools.product(*(listed for _, listed in axes))
    ]


def apply(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of `config` with the changes, each in the type of the value that it replaces.

    Args:
      changes: key ("mesh.data" for one inside another) -> value, or what was typed for it.

    Raises:
      ValueError: there is no such key, or the value is of another type.
    """
    config = config.copy_and_resolve_references()
    known = flat(config)
    for key, value in changes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the config has no key {key!r}{hint}")
        typed = _typed(key, value, known[key])
        with config.unlocked():
            *parents, last = key.split(".")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = typed
    return config


def flat(config: ConfigDict) -> dict[str, Any]:
    """Every value of a config by its key, with dots for configs inside of it."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            found |= {f"{key}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            found[key] = value
    return found


def changed(config: ConfigDict, base: ConfigDict) -> dict[str, Any]:
    """The keys whose values differ from those of `base`, which has the same ones."""
    of_base = flat(base)
    return {key: value for key, value in flat(config).items() if value != of_base[key]}


def _typed(key: str, value: Any, old: Any) -> Any:
    kind = type(old)
    if type(value) is kind:
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        return kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"{key}={value}: expected a {kind.__name__}, as {old!r} is") from None


def _repeated(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
