"""Domains that the guest tests share: one for each device path, booted once for each module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.domain.definition import Definition
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain, ready_made
from tests.guest.driver_guest import DriverGuest, debugging, driver_guest
from tests.unit.blockfront import image

__all__ = ["image"]

GUESTS = ("hvm", "pv", "virtio")


def named(name: str, request: pytest.FixtureRequest, **changes: object) -> Definition:
    """A ready-made definition under a name of its own, since several workers run at once."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    definition = ready_made(name)
    return replace(definition, name=f"{name}-{worker}", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=GUESTS)
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """Each of the ready-made guests in turn."""
    return start_domain_for_module(named(request.param, request))


@pytest.fixture(scope="module")
def hvm(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("hvm", request))


@pytest.fixture(scope="module")
def pv(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("pv", request))


@pytest.fixture(scope="module")
def guest(
    request: pytest.FixtureRequest, start_domain_for_module: StartDomain, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DriverGuest]:
    """A domain that the test plays, whose disks another domain's kernel serves."""
    with debugging():
        domain = start_domain_for_module(named("pv", request, disks=(), networks=()))
    with driver_guest(domain, tmp_path_factory.mktemp("disks")) as guest:
        yield guest
