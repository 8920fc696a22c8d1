"""Less at a time under pressure, and the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from elinvar.runtime.device import DeviceProfile
from elinvar.runtime.pressure import Monitor, Pressure, Sensor
from elinvar.video import adaptive, passes
from elinvar.video.verifying import frame_hash

NOMINAL, WARNING, CRITICAL = Pressure.NOMINAL, Pressure.WARNING, Pressure.CRITICAL


def test_limits_fall_with_pressure_and_never_below_one() -> None:
    limits = adaptive.for_profile(DeviceProfile.fake())
    assert limits.in_flight == 4
    assert adaptive.for_profile(DeviceProfile.fake(memory_bytes=1 << 30)).in_flight == 2
    hot = adaptive.adjusted(limits, {"thermal": CRITICAL, "memory": WARNING, "power": NOMINAL})
    assert hot.in_flight == 1
    assert hot.cache_bytes == limits.cache_bytes // 4
    assert adaptive.fraction({"memory": WARNING, "thermal": NOMINAL}) == 0.7
    assert adaptive.fraction({"thermal": CRITICAL, "power": WARNING}) == 0.25, "the strictest decides"
    assert adaptive.adjusted(limits, {"thermal": NOMINAL}) == limits
    assert adaptive.adjusted(adaptive.Limits(1, 64), {"thermal": CRITICAL}).in_flight == 1


class Watched:
    """A pipeline and a pool, as far as a monitor is concerned."""

    in_flight = 8

    def set_in_flight(self, n: int) -> int:
        self.in_flight = n
        return n


def test_a_monitor_lowers_what_is_in_flight_and_gives_it_back() -> None:
    heat, clock = [0.0], [0.0]
    sensor = Sensor("thermal", "made up", lambda: heat[0], 80.0, 95.0)
    monitor = Monitor([sensor], clock=lambda: clock[0], hold=1.0)
    pipeline = Watched()

    class Pool:
        kept = -1

        def shrink_to_fit(self, max_bytes: int) -> int:
            self.kept = max_bytes
            return 0

        def stats(self) -> object:
            return type("Stats", (), {"bytes_live": 100, "bytes_cached": 1000})

    pool = Pool()
    with adaptive.giving_way(monitor, pipeline, pool, adaptive.Limits(8, 0)):
        for value, wanted, kept in ((50.0, 8, -1), (85.0, 4, 600), (99.0, 2, 350)):
            heat[0] = value
            monitor.sample()
            assert (pipeline.in_flight, pool.kept) == (wanted, kept)
        heat[0] = 20.0
        for _ in range(3):
            clock[0] += 2.0
            monitor.sample()
        assert pipeline.in_flight == 8
    heat[0] = 85.0
    monitor.sample()
    assert pipeline.in_flight == 2, "afterwards the runtime's own rule counts"


def test_an_export_under_pressure_is_the_same(simple, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from elinvar.video import VideoFile, export

    graph = simple(passes.Vignette(0.4))
    made = {}
    for name, heat in (("cool", 20.0), ("hot", 99.0)):
        sensor = Sensor("thermal", "made up", lambda heat=heat: heat, 80.0, 95.0)
        with Monitor([sensor], interval=0.01) as monitor:
            monitor.sample()
            path = tmp_path / f"{name}.mkv"
            done = export(graph, path, codec="ffv1", in_flight=None, monitor=monitor)
        assert done.frames == 10
        file = VideoFile(path)
        made[name] = [frame_hash([file.frame(n)]) for n in range(10)]
        file.close()
    assert made["cool"] == made["hot"]
