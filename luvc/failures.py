"""How a failure of the device or the model becomes the error of one request."""

from __future__ import annotations

import torch

from luvc.errors import LuvcError, OutOfMemory, RequestError


class EngineFailure(RequestError):
    """The engine failed in a way that no request is known to have caused; trying again can help."""

    retryable = True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once could have succeeded."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def without_frames(error: Exception) -> Exception:
    """The error and what led to it without their tracebacks, whose frames hold the tensors of the work that failed.

    Whoever tries again with less needs that memory.
    """
    linked: BaseException | None = error
    while linked is not None and linked.__traceback__ is not None:
        linked.__traceback__ = None
        linked = linked.__cause__ or linked.__context__
    return error


def as_request_error(error: BaseException, request_id: str) -> LuvcError:
    """The error of a request that failed alone."""
    if isinstance(error, LuvcError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(f"request {request_id!r} does not fit into memory even alone", "fewer or smaller frames")
    return EngineFailure(f"request {request_id!r}: {type(error).__name__}: {error}")
