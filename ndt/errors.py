"""The exception for wrong input of a user."""

from ndt.text import escaped

__all__ = ["InputError"]

LONGEST = 2000  # characters of a message; a value of a file may be a book


class InputError(ValueError):
    """States in one line what is wrong with the user's input: file, field, expected and found value.

    The command line prints it without a traceback and exits with code 2. Control characters and other hidden ones in
    names and values are shown as escapes.

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
        line = " ".join(f"{where}: {field}: expected {expected}, found {found}".split())
        super().__init__(escaped(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"))

        self.where, self.field, self.expected, self.found = str(where), field, expected, str(found)

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str, str]]:
        return InputError, (self.where, self.field, self.expected, self.found)
