"""Telling operators' systems what they have to act on."""

from __future__ import annotations
