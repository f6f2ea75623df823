# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""When a certificate is to be renewed: the authority's own word where it gives one, else a part of the lifetime.

There is no number of days: lifetimes are shrinking, and what is early for one of 90 days is too late for one of six.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from ansible.module_utils.certificates_x509 import utc

SHORT_SECONDS = 10 * 86400.0
LEFT, LEFT_OF_SHORT = 1 / 3, 1 / 2


@dataclass(frozen=True)
class Window:
    """When the authority wants a certificate to be renewed, in seconds since the epoch.

    `explanation` is a page that says why, or ""; the authority may be asked again after `retry_after_seconds`.
    """

    start: float
    end: float
    explanation: str = ""
    retry_after_seconds: float = 21600.0


@dataclass(frozen=True)
class Decision:
    """Whether renewal is due, from when on (seconds since the epoch), and whose word that is."""

    due: bool
    due_at: float
    why: str


def decide(
    now: float, not_before: float, not_after: float, *, fraction: float | None, ari: Window | None, seed: str
) -> Decision:
    """Return when a certificate is to be renewed; all times are seconds since the epoch.

    `fraction` is the part of the lifetime that is left when it is due (0 to 1, exclusive); None: a third, or a half of a
    lifetime below 10 days. `ari` is the authority's window: a moment in it, which `seed` fixes, counts where it is earlier.
    `seed` names certificate and host, so that not all come at once.
    """
    lifetime = not_after - not_before
    if lifetime <= 0:
        return Decision(True, min(now, not_after), f"it ends {utc(not_after)}, before it begins")
    left = fraction if fraction is not None and 0 < fraction < 1 else LEFT_OF_SHORT if lifetime < SHORT_SECONDS else LEFT
    due_at = not_after - lifetime * left
    why = f"{left:.0%} of its lifetime of {_span(lifetime)} is left at {utc(due_at)}"
    if ari is not None and math.isfinite(ari.start) and math.isfinite(ari.end) and ari.start < ari.end:
        chosen = ari.start + (ari.end - ari.start) * part_of(seed)
        if chosen < due_at:
            due_at = chosen
            why = f"the authority wants it renewed between {utc(ari.start)} and {utc(ari.end)}; its turn is {utc(due_at)}"
            why += f" ({ari.explanation})" if ari.explanation else ""
    if now >= not_after:
        why = f"it expired at {utc(not_after)}"
    return Decision(now >= due_at, due_at, why)


def too_late(now: float, not_after: float, interval_seconds: float) -> bool:
    """Return whether a certificate expires before the next run of a schedule that runs each `interval_seconds`."""
    return now + interval_seconds >= not_after


def part_of(seed: str) -> float:
    """Return a number from 0 to 1 (exclusive) that is always the same for a seed."""
    return int.from_bytes(hashlib.sha256(seed.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.3g} days" if seconds >= 86400 else f"{seconds:.0f} s"
