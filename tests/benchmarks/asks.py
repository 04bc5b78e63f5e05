"""What questions of composed scenes are about, for tests."""

from __future__ import annotations


def subject(ask, scene):
    """The name that a question is about: the first of the scene's names in its text."""
    names = sorted({actor.name for actor in scene.actors}, key=lambda name: (ask.text.find(name) < 0, -len(name)))
    return min((name for name in names if name in ask.text), key=ask.text.find)
