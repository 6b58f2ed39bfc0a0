"""The live XenStore of a paravirtual guest, as Debian's own tools see it on the host."""

from __future__ import annotations

import os
import subprocess

import pytest

from harness.domain.domain import Domain
from harness.host import service
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import SERVICE, StoreClient
from tests.guest.conftest import named


def tool(*argv: str) -> str:
    environment = {**os.environ, "XENSTORED_PATH": str(service.socket_path(SERVICE))}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def test_xenstore_ls_lists_the_live_tree(pv: Domain) -> None:
    listed = tool("xenstore-ls", "-fp")
    domid = pv.domid
    nodes = dict(line.split(" = ", 1) for line in listed.splitlines())
    front, back = f"/local/domain/{domid}/device", "/local/domain/0/backend"
    for path, value in {
        f"/local/domain/{domid}/name": pv.name,
        f"{front}/vbd/51712/state": "4",
        f"{front}/vbd/51712/backend": f"{back}/vbd/{domid}/51712",
        f"{front}/vbd/51712/protocol": "x86_64-abi",
        f"{back}/vbd/{domid}/51712/state": "4",
        f"{back}/vbd/{domid}/51712/sectors": str((512 << 20) // 512),
        f"{back}/vbd/{domid}/51712/sector-size": "512",
        f"{front}/vif/0/state": "4",
        f"{front}/vif/0/mac": pv.parts.cards[0].lease.mac,
        f"{back}/vif/{domid}/0/state": "4",
        f"/local/domain/{domid}/store/port": "1",
        f"/local/domain/{domid}/console/port": "2",
    }.items():
        assert nodes[path].startswith(f'"{value}"'), path
    # The guest's own nodes belong to it and are readable by Domain 0; the backend's are the other way round.
    assert nodes[f"{front}/vbd/51712/queue-0/ring-ref0"].endswith(f"(n{domid},r0)")
    assert nodes[f"{back}/vbd/{domid}/51712/sectors"].endswith(f"(n0,r{domid})")


def test_tools_change_the_store_that_the_guest_lives_with(pv: Domain) -> None:
    tool("xenstore-write", "/tool/test", "from a tool")
    with StoreClient.connect() as store:
        assert store.read("/tool/test") == b"from a tool"
        tool("xenstore-rm", "/tool/test")
        assert "test" not in store.directory("/tool")
    pv.execute(["true"]).check()


def test_a_domain_leaves_nothing_in_the_store(
    pv: Domain, request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    definition = named("pv", request)
    second = start_domain(type(definition)(**{**vars(definition), "name": f"{definition.name}-second"}))
    domid = second.domid
    assert f"/{domid}/" in tool("xenstore-ls", "-f")
    second.destroy()
    left = [line for line in tool("xenstore-ls", "-f").splitlines() if f"/{domid} =" in line or f"/{domid}/" in line]
    assert left == []
    assert second.name not in tool("xenstore-ls", "-f")
