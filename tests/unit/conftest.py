"""What the tests of the tool share: a registry, and a site to fill from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from unit.fake_registry import AMD64, ARM64, FakeImage, FakeRegistry, make_image, make_index, make_layer
from unit.tool_site import Site

# How fast a machine is that does other things as well says nothing of the tool.
settings.register_profile("seawall", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seawall")


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Site:
    # Nobody's own logins take part in a test.
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return Site(tmp_path, capsys)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def platforms() -> FakeImage:
    """An index of two platforms that share a layer."""
    shared = make_layer("shared", 5000)
    return make_index(
        [
            make_image("app", platform=platform, layers=[shared, make_layer(f"only {platform}")])
            for platform in (AMD64, ARM64)
        ]
    )
