"""GET /status.json: what the status page draws."""

from __future__ import annotations
