"""What a process logs at its start: settings and policies that have no effect."""

from __future__ import annotations

import structlog

from app.processing.registry import Registry
from app.settings import Settings


def warn(settings: Settings, handlers: Registry) -> None:
    """Log each variable that looks like a misspelt setting, and policies in inline mode."""
    log = structlog.get_logger(__name__)
    for name, nearest in settings.origin.misspelt:
        log.warning("setting_unknown", variable=name, nearest=nearest)
    if not settings.is_queue and handlers.policies:
        declared = {name: str(policy) for name, policy in handlers.policies.items()}
        log.warning("policies_without_effect", policies=declared)
