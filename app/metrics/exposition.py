"""The text of ``/metrics``, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from prometheus_client import REGISTRY, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from app.inbox import Gauges
from app.metrics.series import Series
from app.metrics.shared import SharedFiles
from app.metrics.state import InboxState

__all__ = ["CONTENT_TYPE", "Exposition"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

log = structlog.get_logger(__name__)


class Exposition:
    """All series: those that processes count, and the state of the inbox.

    It includes the metrics that handler modules define in the library's default registry.
    """

    def __init__(
        self,
        folder: Path | None,
        read: Callable[[], Gauges],
        refresh: Callable[[], object],
        release: str = "",
    ) -> None:
        """Take the ``folder`` of the files that processes share, None for a process alone.

        ``read`` returns the gauges of the inbox. ``refresh`` sets those of this process. The
        ``release`` is that of the code.
        """
        self._refresh = refresh
        self._sources: list[Collector] = []
        self._state = InboxState(read, release)
        self.series = self._share(SharedFiles(folder)) if folder else self._begin_alone()
        """The series of this process. None if the file system is full."""

    def _begin_alone(self) -> Series:
        series = Series()
        self._sources += [REGISTRY, series.registry]
        return series

    def _share(self, files: SharedFiles) -> Series | None:
        self._sources.append(files)
        try:
            files.prepare()
        except OSError as error:
            log.warning("metrics_not_counted", reason=str(error))
            return None
        return Series()

    def text(self) -> bytes:
        """Return all series. Raises ``TimeoutError`` if the shared files stay locked."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield all series. It is called by the library of Prometheus."""
        self._refresh()
        for source in (*self._sources, self._state):
            yield from source.collect()
