from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mutation: mutates every shipped .metal; minutes, left out by -m 'not mutation'")
