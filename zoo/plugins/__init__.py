"""The application's side of ``zoo plugin``: the installed plugins, their checks, and a new one from a template."""

from __future__ import annotations
