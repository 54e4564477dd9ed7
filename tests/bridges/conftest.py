"""SGLang's source, fetched once a session: without a network one attempt is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridges import sglang_source


@pytest.fixture(scope="session")
def sglang_folder(pytestconfig: pytest.Config) -> Path:
    """Where SGLang's real source lies; a test that needs it is skipped where it cannot be downloaded."""
    return sglang_source.unpacked(Path(pytestconfig.cache.mkdir("sglang")))
