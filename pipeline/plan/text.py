"""Text that the pipeline's files can hold: UTF-8. Names on disk and JSON may hold what is none. Pure."""

from __future__ import annotations


def is_writable(text: str) -> bool:
    """Whether UTF-8 can say it: a byte of a name in another encoding, or half a character, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def writable(text: str) -> str:
    """The same text where UTF-8 can say it; else with escapes in the place of the rest, for people to recognise it."""
    try:
        # What Python made of a name's odd bytes, turned back into them.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
