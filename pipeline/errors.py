"""What can go wrong with inputs, decoding and storage: the pipeline's branch of the tree in `luvc.errors`.

The class name is what reports group failures by, so there is one class for each cause that a person would
act on differently. Which stage failed is not part of the error: it is known where the error is caught.
"""

from __future__ import annotations

from luvc.errors import ConfigError, LuvcError


class InputError(LuvcError):
    """Something is wrong with one video; the rest of the run is not affected."""


class SourceMissing(InputError):
    """The file does not exist (any more)."""


class PermissionDenied(InputError):
    """The file exists, or may exist, and must not be read with these credentials."""


class NameNotUtf8(InputError):
    """The file's name holds bytes that are not UTF-8, so that no row can name it."""


class NotAVideo(InputError):
    """The content is not a container that holds video."""


class EmptyFile(NotAVideo):
    """The file has no bytes."""


class NoVideoStream(NotAVideo):
    """A media file without moving pictures: audio only, or only a cover picture."""


class UnsupportedCodec(InputError):
    """The video is in a codec this build of FFmpeg cannot decode."""


class CorruptVideo(InputError):
    """Frames that were asked for cannot be decoded."""


class Truncated(CorruptVideo):
    """The file ends too early: a recording or an upload that was cut off."""


class SpanUnreadable(InputError):
    """The clip lies, wholly or in part, outside the video."""


class DecodeError(LuvcError):
    """Decoding was stopped from outside, or stopped by itself, without saying what is wrong with the video."""


class DecodeTimeout(DecodeError):
    """Reading or decoding took longer than `decode.deadline_s`; its worker was killed."""

    retryable = True


class DecoderNotStarted(DecodeError):
    """No worker process could be had: the machine was too busy, or short of memory, processes or open files."""

    retryable = True


class DecodeMemory(DecodeError):
    """Decoding needed more memory than `decode.memory_bytes`."""


class DecoderCrashed(DecodeError):
    """The worker process died while decoding, for example of a segmentation fault."""

    retryable = True


class StorageError(LuvcError):
    """A store did not answer, or answered with an error that may pass."""

    retryable = True


class OutputError(ConfigError):
    """The output cannot be written. Exit code 2."""
