"""What a partner may use: limits shared by all nodes through Redis."""

from __future__ import annotations
