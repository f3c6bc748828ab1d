"""What every front is: variables under the names of a Linen module, which computes with them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flax import nnx
from flax.core.meta import AxisMetadata
from flax.linen import Module

from lnjax.typing import Array

KINDS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
Rngs = nnx.Rngs | nnx.RngStream
Made = Callable[["Front"], Any]


class Signature:
    """What `help` shows of a class: its own arguments, and the attributes of its namesake."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("an instance has the signature of its call")
        own = list(inspect.signature(owner.__init__).parameters.values())[1:]
        namesake = getattr(owner, "namesake", None)
        if namesake is None:
            return inspect.Signature(own)
        only = inspect.Parameter.KEYWORD_ONLY
        first = [parameter for parameter in own if parameter.kind < only]
        known = {"parent", "name", *(parameter.name for parameter in first)}
        fields = inspect.signature(namesake).parameters.values()
        rest = [field.replace(kind=only) for field in fields if field.name not in known]
        last = [parameter for parameter in own if parameter.kind == only]
        return inspect.Signature([*first, *rest, *last])


class Front(nnx.Module):
    """Variables under the names of a Linen module, which computes with them."""

    __signature__ = Signature()  # pyrefly: ignore[bad-override]

    def linen(self) -> Any:
        """The Linen module with the attributes that this one has now."""

        # One object in two places is one in Linen too, and so has one state.
        @functools.cache
        def made(layer: Front) -> Module:
            return layer._linen(made)

        return made(self)

    def _linen(self, made: Made) -> Module:
        """`linen`, with `made` for what is inside; each kind of layer has its own."""
        raise NotImplementedError

    def set_view(
        self, deterministic: bool | None = None, use_running_average: bool | None = None
    ) -> None:
        """What `nnx.view` calls.

        Args:
          deterministic: nothing is drawn.
          use_running_average: batch norm takes the running statistics.
        """
        given = {"deterministic": deterministic, "use_running_average": use_running_average}
        for name, value in given.items():
            if value is not None and hasattr(self, name):
                setattr(self, name, value)

    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables as Linen has them: {"params": {...}, ...}, submodules nested."""
        tree = {}
        for name, value in vars(self).items():
            if isinstance(value, Front):
                for kind, inner in value.variables().items():
                    tree.setdefault(kind, {})[name] = inner
            elif isinstance(value, nnx.Variable):  # of any type: a user may have made it another
                kind = "batch_stats" if isinstance(value, nnx.BatchStat) else "params"
                tree.setdefault(kind, {})[name] = value[...]
        return tree

    def _declare(self, variables: Mapping[str, Mapping[str, Array]]) -> None:
        for kind, values in variables.items():
            for name, value in values.items():
                boxed = isinstance(value, AxisMetadata)  # of linen.with_partitioning, say
                metadata = value.to_nnx_metadata() if boxed else {"value": value}
                setattr(self, name, KINDS[kind](**metadata))

    def _store(self, tree: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            attribute = getattr(self, name)
            if isinstance(attribute, Front):
                attribute._store(value, old[name])
            elif value is not old[name]:
                # Nothing else: in evaluation a module may stand in a trace that must not change
                # it, and of a module in two places Linen changes but one entry.
                attribute[...] = value

    def _keys(self) -> dict[str, Array]:
        """One key from each random stream of this module and those inside of it."""
        keys = {}
        for value in vars(self).values():
            if isinstance(value, Front):
                keys |= value._keys()
        stream = vars(self).get("stream")
        if stream is not None and not getattr(self, "deterministic", False):
            keys[stream.tag] = stream()
        return keys

    def _apply(self, *args: Any, definition: Module | None = None, **arguments: Any) -> Any:
        """Calls the Linen module, and keeps what it changes of the statistics."""
        variables = self.variables()
        definition = self.linen() if definition is None else definition
        out, changed = definition.apply(
            variables,
            *args,
            rngs=self._keys(),
            mutable=[kind for kind in variables if kind != "params"],
            **arguments,
        )
        for kind, tree in changed.items():
            self._store(tree, variables[kind])
        return out


def carry_key(rngs: Rngs | None) -> Array | None:
    if rngs is None:
        return None
    return rngs.carry() if isinstance(rngs, nnx.Rngs) else rngs()


def draw(rngs: Any, name: str) -> Array:
    """A key from the stream `name` of `rngs`, which is the default one if there is no such."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs, got {type(rngs).__name__}")
    return rngs[name]()


def stream(rngs: Any, name: str) -> nnx.RngStream:
    """A stream of a module's own; the tag is the name that Linen asks for, also of the default."""
    return nnx.RngStream(key=draw(rngs, name), tag=name)


def frozen(attribute: Any) -> Any:
    """Lists as tuples: what is not hashable is no static argument of jit."""
    return tuple(map(frozen, attribute)) if isinstance(attribute, list | tuple) else attribute


def checked(value: Any, expected: str, kind: type, but: type | tuple[()] = ()) -> Any:
    if not isinstance(value, kind) or isinstance(value, but):
        got = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"expected {expected} of lnjax.nnx, got {got}")
    return value


class Plain(Front):
    """A front with variables of its own, made of the attributes of its Linen namesake."""

    namesake: ClassVar[type[Module]]

    def _make(
        self, attributes: Mapping[str, Any], rngs: nnx.Rngs, *args: Any, method: str = "__call__"
    ) -> None:
        """Declares what the namesake, called with `args`, declares."""
        attributes = {name: frozen(value) for name, value in attributes.items()}
        if hasattr(self.namesake, "use_running_average"):
            # An attribute of this module too, so that train() and eval() find it.
            attributes = {"use_running_average": False, **attributes}
            self.use_running_average = attributes["use_running_average"]
        self.definition = self.namesake(parent=None, **attributes)
        self._declare(self.definition.init(draw(rngs, "params"), *args, method=method))

    def _linen(self, made: Made) -> Module:
        if hasattr(self, "use_running_average"):
            return self.definition.clone(use_running_average=self.use_running_average)
        return self.definition
