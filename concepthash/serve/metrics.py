"""Figures for Prometheus, in a registry of the app's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from concepthash.serve.engine import Engine
    from concepthash.serve.requests import Allowance

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What the server has done.

    Args:
        engine: its counters are read when they are asked for.
        room: what uploads take in memory.
    """

    def __init__(self, engine: Engine, room: Allowance) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "chash_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "chash_request_seconds",
            "From the request to its answer, by route.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.connections = Gauge("chash_connections", "Open connections.", registry=self.registry)
        self.turned_away = Counter(
            "chash_connections_turned_away",
            "Connections closed because too many were open, or for being too slow.",
            registry=self.registry,
        )
        uploads = Gauge(
            "chash_upload_bytes", "Memory taken by request bodies.", registry=self.registry
        )
        uploads.set_function(lambda: room.taken)
        ProcessCollector(registry=self.registry)
        self.registry.register(_OfEngine(engine))
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (route, method, status)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self._requests.labels(route, method, str(status))
        counter.inc()
        timer = self._timed.get(route)
        if timer is None:
            timer = self._timed[route] = self._seconds.labels(route)
        timer.observe(seconds)

    def text(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self.registry)


class _OfEngine(Collector):
    """The counters of an engine, read when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, text, value in (
            ("chash_images", "Images in the gallery.", stats.images),
            ("chash_upload_queue_bytes", "Encoded photos that wait.", stats.photo_bytes),
            ("chash_thumbnail_bytes", "Thumbnails kept in memory.", stats.thumbnail_bytes),
            ("chash_missing_shards", "Shards that give no answer.", stats.missing),
        ):
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in (
            ("chash_reloads", "Newer states of the gallery taken up.", stats.reloads),
            ("chash_thumbnails", "Thumbnails drawn.", stats.thumbnails),
            ("chash_partial_answers", "Searches answered without some shards.", stats.partial),
        ):
            yield CounterMetricFamily(name, text, value)
        waiting = GaugeMetricFamily("chash_queue", "What waits or is worked on.", labels=["queue"])
        waiting.add_metric(["search"], stats.searches)
        waiting.add_metric(["photo"], stats.photos)
        yield waiting
        dropped = CounterMetricFamily(
            "chash_dropped", "Not worked on, by reason.", labels=["queue", "reason"]
        )
        sizes = HistogramMetricFamily(
            "chash_batch_size", "What was worked on at once.", labels=["queue"]
        )
        seconds = CounterMetricFamily("chash_work_seconds", "Time worked.", labels=["queue"])
        refused = {"search": stats.searched.refused, "photo": stats.refused}
        for queue, done in (("search", stats.searched), ("photo", stats.encoded)):
            dropped.add_metric([queue, "full"], refused[queue])
            dropped.add_metric([queue, "late"], done.late)
            dropped.add_metric([queue, "abandoned"], done.abandoned)
            sizes.add_metric([queue], _cumulative(dict(done.sizes)), done.served)
            seconds.add_metric([queue], done.seconds)
        yield from (dropped, sizes, seconds)


def _cumulative(sizes: dict[int, int]) -> list[tuple[str, float]]:
    """How many batches had at most so many items."""
    found = [(f"{most}", float(sum(n for s, n in sizes.items() if s <= most))) for most in SIZES]
    return [*found, ("+Inf", float(sum(sizes.values())))]
