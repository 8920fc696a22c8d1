from __future__ import annotations

import re

import pytest

from elinvar.bench import Load, Result, Samples, Work, Yardstick, compare_results, words
from elinvar.bench.pages import page

MACHINE = {"id": "m", "name": "A Box", "accelerators": [], "load_average": 0.25}


def result(scale: float = 1.0, **more: object) -> Result:
    values = tuple(scale * 0.01 * (1 + 0.001 * (i % 5)) for i in range(31))
    rows = {"fast": Samples("fast", values, **more), "slow": Samples("slow", tuple(9 * v for v in values))}  # type: ignore[arg-type]
    return Result("demo", rows, MACHINE, created="2025-01-02T03:04:05+00:00", commit="abc+")


def visible(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html.partition("<main")[2]).replace("\u00a0", " ")


def test_the_page_names_machine_time_commit_and_every_statistic() -> None:
    html = page(result()).html_text()
    assert "A Box. 2025-01-02 03:04:05 UTC, commit abc+." in html
    text = visible(html)
    for word in ("median", "95 % interval", "min", "max", "std", "10.02 ms", "90.18 ms", "accelerators", "none"):
        assert word in text
    assert "remarks" not in text.partition("How to read")[0]  # an empty column is left out


def test_a_contended_row_is_called_worthless() -> None:
    html = page(result(load=Load(1.0, 2, 1.0))).html_text()
    text = visible(html)
    assert "do not quote fast" in re.sub(r"\s+", " ", text)
    assert "others used 50 % of the CPU" in text


def test_the_roofline_comes_from_yardsticks_or_extras() -> None:
    mark = Yardstick(80.0, 200.0)
    with_marks = page(result(work=Work(bytes=1e8, flops=1e9), before=mark, after=mark)).html_text()
    assert "Memory 80.0 GB/s; matrix product fp32 200 GFLOP/s." in with_marks
    assert "no point to draw" not in with_marks
    plain = result()
    roof = {"copy_gbps": 4300.0, "f32_gflops": 50e3, "bf16_gflops": None}
    with_extras = page(Result("demo", plain.samples, MACHINE, {"roofline": roof}, "", None)).html_text()
    assert "Memory 4,300.0 GB/s; matrix product fp32 50,000 GFLOP/s." in with_extras
    assert "no point to draw" in with_extras
    assert 'id="roofline"' not in page(plain).html_text()


def test_verdicts_are_shown_when_compared() -> None:
    comparison = compare_results(result(), result(1.2))
    html = page(result(1.2), comparison).html_text()
    assert '<td class="worse">worse</td>' in html
    assert 'id="against-the-baseline"' in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.5 s"), (0.0012345, "1.234 ms"), (2e-6, "2 µs"), (5e-9, "5 ns"), (5e-12, "0.005 ns"), (123.4, "123.4 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (Work(items=8.2e6, unit="contributions"), "4.1 M contributions/s"),
        (Work(items=1.0), "0.5 items/s"),
        (Work(flops=4e9, bytes=1.0), "2 GFLOP/s"),
        (Work(bytes=4e9), "2 GB/s"),
        (Work(), ""),
        (None, ""),
    ],
)
def test_rates(work: Work | None, text: str) -> None:
    assert words.rate(Samples("s", (2.0,), work=work)) == text
