"""Fixtures that several test modules use."""

from browser import address, browser, visit
from explore import js

__all__ = ["address", "browser", "js", "visit"]
