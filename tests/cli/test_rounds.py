"""The line that says how far a measurement has come."""

from __future__ import annotations

import io

from elinvar.cli.rounds import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_rate_and_time_left_on_a_terminal_only() -> None:
    clock = iter([0.0, 1.0, 1.01, 2.0, 10.0])
    screen = Terminal()
    line = ProgressLine(screen, lambda: next(clock))
    line("copy", 0, 10)
    line("copy", 1, 10)
    line("copy", 2, 10)  # 10 ms later: not worth drawing
    line("copy", 4, 10)
    line("copy", 10, 10)
    line.close()
    text = screen.getvalue()
    assert "copy: round 4/10, 2/s, 3.0 s left" in text
    assert "round 2/10" not in text
    assert "copy: 10 rounds in 10.0 s" in text
    clock = iter([0.0, 1.0, 10.0])
    log = io.StringIO()
    line = ProgressLine(log, lambda: next(clock))
    for done in (0, 1, 10):
        line("copy", done, 10)
    line.close()
    assert log.getvalue() == "copy: 10 rounds in 10.0 s\n"
