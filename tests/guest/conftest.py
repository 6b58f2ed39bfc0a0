"""Domains that the guest tests share: one for each device path, booted once for each module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.backend.launch import MODULE
from harness.domain import warm as templates
from harness.domain.definition import Definition
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain, ready_made
from tests.guest.driver_guest import DriverGuest, debugging, driver_guest, require_debugging
from tests.unit.blockfront import image

__all__ = ["image"]

GUESTS = ("hvm", "pv", "virtio")


def named(name: str, request: pytest.FixtureRequest, **changes: object) -> Definition:
    """A ready-made definition under a name of its own, since several workers run at once."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    definition = ready_made(name)
    return replace(definition, name=f"{name}-{worker}", **changes)  # type: ignore[arg-type]


def _warm(start: StartDomain) -> StartDomain:
    def start_warm(definition: Definition, *, backend: str = MODULE, warm: bool = True) -> Domain:
        return start(definition, backend=backend, warm=warm and templates.is_possible(definition))

    return start_warm


@pytest.fixture
def start_domain(start_domain: StartDomain) -> StartDomain:
    """As the harness's own, but for domains that need not boot: they do so only with ``warm=False``.

    What a test does with a domain begins when that is ready, and a boot takes twice as long and three times the work.
    Those that are about how a guest comes up, or about what is there when it boots, say so.
    """
    return _warm(start_domain)


@pytest.fixture(scope="module")
def start_domain_for_module(start_domain_for_module: StartDomain) -> StartDomain:
    """Likewise."""
    return _warm(start_domain_for_module)


@pytest.fixture(scope="module", params=GUESTS)
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """Each of the ready-made guests in turn, booted."""
    return start_domain_for_module(named(request.param, request), warm=False)


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
    require_debugging(domain)
    with driver_guest(domain, tmp_path_factory.mktemp("disks")) as guest:
        yield guest
