"""The parts of the running service, as ``create_app`` puts them together."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from app.inbox import Inbox
from app.leases import Leases
from app.receiver import Receiver
from app.registry import Registry
from app.runner import Runner
from app.settings import Settings
from app.worker import Worker


@dataclass(frozen=True, slots=True)
class Service:
    """What one process has of each part. It sits on ``app.extensions["service"]``."""

    settings: Settings
    registry: Registry
    inbox: Inbox
    leases: Leases
    runner: Runner
    worker: Worker
    receiver: Receiver
    stopping: threading.Event


def service(app: Flask | None = None) -> Service:
    """Return the service of ``app``, or of the application that handles this request."""
    return cast("Service", (app or current_app).extensions["service"])
