"""The exception for wrong input of a user."""

__all__ = ["InputError"]


class InputError(ValueError):
    """States in one line what is wrong with the user's input: file, field, expected and found value.

    The command line prints it without a traceback and exits with code 2.

    Arguments:
        where: File, configuration or argument at fault.
        field: Field inside it, for example ``units/spike_times``.
        expected: Description of valid input.
        found: The input.

    Example:
        >>> print(InputError("a.nwb", "units", "at least one unit", "none"))
        a.nwb: units: expected at least one unit, found none
    """

    def __init__(self, where: object, field: str, expected: str, found: object) -> None:
        super().__init__(" ".join(f"{where}: {field}: expected {expected}, found {found}".split()))

        self.where, self.field, self.expected, self.found = str(where), field, expected, str(found)

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str, str]]:
        return InputError, (self.where, self.field, self.expected, self.found)
