"""The exception tree shared by the method, the engine and the pipeline.

Every error says what happened, to which key, file or unit, and (in `hint`) what to do about it.
Knows nothing of torch, Ray or files.
"""

from __future__ import annotations


class LuvcError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what happened and where (key, file, unit).
        hint: what the reader can do about it; "" when there is nothing to add.
    """

    #: Whether trying the same unit again can help (a failure row carries it).
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[LuvcError], tuple[str, str]]:
        # Exceptions cross process borders (Ray, decode workers): keep both fields.
        return type(self), (self.message, self.hint)


class ConfigError(LuvcError):
    """A configuration value is unknown, misplaced or impossible. Exit code 2."""


class ModelError(LuvcError):
    """A checkpoint cannot be found, read or is of an unsupported family."""


class RequestError(LuvcError):
    """One request cannot be answered; its neighbours are not affected."""


class PromptTooLong(RequestError):
    """Prompt, visual tokens and new tokens exceed the positions the model was built for."""


class OutOfMemory(RequestError):
    """A request does not fit even alone, after the batch was halved down to one."""
