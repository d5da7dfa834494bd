"""The one exception a user's input raises."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Says in one line what is wrong with the user's input: which file, which field, what was expected, what was found.

    The command line prints it without a traceback and exits with code 2.

    Arguments:
        where: File, configuration or argument at fault.
        field: Field inside it, for example ``units/spike_times``.
        expected: What would have been right.
        found: What was there instead.

    Example:
        >>> print(InputError("a.nwb", "units", "at least one unit", "none"))
        a.nwb: units: expected at least one unit, found none
    """

    def __init__(self, where: object, field: str, expected: str, found: object) -> None:
        super().__init__(" ".join(f"{where}: {field}: expected {expected}, found {found}".split()))

        self.where, self.field, self.expected, self.found = str(where), field, expected, str(found)

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str, str]]:
        return InputError, (self.where, self.field, self.expected, self.found)
