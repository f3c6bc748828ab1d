"""The one error of this package: a source or a cache that cannot be used, and the cure."""


class DataError(ValueError):
    """Data that must not be used as they are.

    The message is one statement: the file and its line (or record), what was found, what was
    expected and the cure.
    """
