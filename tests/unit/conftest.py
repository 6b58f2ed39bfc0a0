"""How unit tests run: examples have no time limit of their own, because the machine may be busy with guests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("busy-machine", deadline=None)
settings.load_profile("busy-machine")
