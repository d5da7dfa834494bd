"""Text of files on screens and pages: characters that would hide or reorder it are shown as escapes."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["escaped", "escaped_within", "warnings_in_a_line"]

# Control characters (they move the cursor or colour the terminal), marks and overrides of writing direction and other
# invisible characters (they make a name look like another), separators of lines, and halves of surrogate pairs (which
# cannot be printed).
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def escaped(text: str, keep: str = "") -> str:
    r"""Returns a text with hidden characters as escapes of Python.

    Arguments:
        text: Any text.
        keep: Characters that stay, such as the line feeds of a layout.

    Example:
        >>> print(escaped("a\x1b[31mb\u202egpj"))
        a\x1b[31mb\u202egpj
    """
    return HIDDEN.sub(lambda m: m[0] if m[0] in keep else ascii(m[0])[1:-1], text)


def escaped_within(found: Any) -> Any:
    """Returns nested dicts, lists and tuples with all their texts escaped."""
    if isinstance(found, str):
        return escaped(found)
    if isinstance(found, dict):
        return {escaped_within(k): escaped_within(v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(map(escaped_within, found))

    return found


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Shows each warning of a block as one line, without the place in the code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {escaped(' '.join(str(message).split()))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
