"""Errors cross process borders and say what to do."""

from __future__ import annotations

import inspect
import pickle

import pytest

from luvc.errors import LuvcError
from pipeline import errors

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LuvcError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_pickles_with_its_hint(kind: type[LuvcError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", "do this")))
    assert type(error) is kind
    assert (error.message, error.hint, str(error)) == ("what", "do this", "what (do this)")
    assert kind.__doc__


def test_what_trying_again_can_help() -> None:
    retryable = {kind.__name__ for kind in CLASSES if kind.retryable}
    assert retryable == {"DecodeTimeout", "DecoderCrashed", "DecoderNotStarted", "StorageError"}
