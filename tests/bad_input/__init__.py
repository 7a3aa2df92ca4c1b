"""What each bad input gets: one module per topic; every row of docs/bad-input.md is a test."""

from __future__ import annotations

from importlib import import_module

#: In the order of the page.
TOPICS = (
    "recipes",
    "models",
    "calibration",
    "text_models",
    "numbers",
    "evaluation",
    "disk",
    "artefacts",
    "run_folders",
    "workers",
)

for _topic in TOPICS:
    import_module(f"{__name__}.{_topic}")
