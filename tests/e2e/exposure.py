"""How exposed a service is, as systemd says, and as docs/hardening.md states."""

import re

from e2e.rollout import TOP
from lab.host import Host


def assert_exposed_as_stated(host: Host, unit: str) -> None:
    """*unit* is exposed no more than the page says."""
    stated = re.search(rf"^\|[^|]*`{unit}`.*\| ([0-9.]+) \|$", (TOP / "docs/hardening.md").read_text(), re.MULTILINE)
    assert stated, unit
    said = host.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= float(stated[1]), said
