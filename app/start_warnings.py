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
    if settings.is_queue:
        return
    declared = {name: str(each.of_queue_mode()) for name, each in handlers.policies.items()}
    without_effect = {name: policies for name, policies in declared.items() if policies}
    if without_effect:
        log.warning("policies_without_effect", policies=without_effect)
