"""Fixtures and reporting for tests on real domains.

``start_domain`` starts domains that end with the test, ``start_domain_for_module`` those that a module shares;
``attach_disk`` and ``attach_network`` plug devices in that go with the test. When a test fails, the report shows the
last console lines of every domain it had, and where the logs are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import Protocol

import pytest

from harness.backend.launch import MODULE
from harness.domain.definition import Definition
from harness.domain.definition_file import load
from harness.domain.definition_settings import disk_of, network_of
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.domain.networks import AttachedNetwork
from harness.host.directories import GUESTS
from harness.host.errors import HarnessError
from harness.machine import accelerator

CONSOLE_LINES = 20


class StartDomain(Protocol):
    """Starts a domain and returns when it is ready."""

    def __call__(self, definition: Definition, *, backend: str = MODULE) -> Domain:
        """:param backend: the Python module to run as its backend process, see :class:`Domain`."""


_alive: list[Domain] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "domains")
    group.addoption("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="how guests run (default: auto)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kvm: needs a machine on which guests run under KVM")


def pytest_report_header(config: pytest.Config) -> str:
    try:
        chosen = accelerator.choose(config.getoption("accel"))
    except HarnessError as error:
        return f"accelerator: none: {error.what}"
    return f"accelerator: {chosen.name} ({chosen.reason})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("kvm")]
    if marked and not (verdict := accelerator.kvm_verdict()).works:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"needs working KVM: {verdict.reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for domain in _alive:
            lines = domain.last_console_lines(CONSOLE_LINES)
            report.sections.append((f"domain {domain.name}, logs in {domain.logs}", "\n".join(lines)))
    return report


def _starter(request: pytest.FixtureRequest, stack: ExitStack) -> StartDomain:
    def start(definition: Definition, *, backend: str = MODULE) -> Domain:
        accelerator = request.config.getoption("accel")
        domain = stack.enter_context(Domain(definition, accelerator=accelerator, backend=backend))
        domain.launch()
        _alive.append(domain)
        stack.callback(_alive.remove, domain)
        domain.wait_ready()
        return domain

    return start


@pytest.fixture
def start_domain(request: pytest.FixtureRequest) -> Iterator[StartDomain]:
    """Starts domains that end with the test."""
    with ExitStack() as stack:
        yield _starter(request, stack)


@pytest.fixture(scope="module")
def start_domain_for_module(request: pytest.FixtureRequest) -> Iterator[StartDomain]:
    """Starts domains that the tests of a module share."""
    with ExitStack() as stack:
        yield _starter(request, stack)


class AttachDisk(Protocol):
    """Plugs a disk into a running paravirtual domain and gives the guest's name of it."""

    def __call__(self, domain: Domain, target: str, **settings: str) -> str:
        """:param settings: with the keys of a definition, such as ``size="64MiB"`` or ``sector_size="4096"``."""


@pytest.fixture
def attach_disk() -> Iterator[AttachDisk]:
    """Plugs disks in; those that the test has not detached are taken away at its end."""
    with ExitStack() as stack:

        def attach(domain: Domain, target: str, **settings: str) -> str:
            domain.attach_disk(disk_of({"target": target, **_keys(settings)}))
            stack.callback(_take_away, domain, target)
            return domain.device(target)

        yield attach


def _take_away(domain: Domain, target: str) -> None:
    if domain.state is DomainState.RUNNING and target in domain.targets:
        domain.detach_disk(target, force=True)


class AttachNetwork(Protocol):
    """Plugs a network card into a running paravirtual domain and tells which it is."""

    def __call__(self, domain: Domain, **settings: str) -> AttachedNetwork:
        """:param settings: with the keys of a definition, such as ``mtu="9000"``."""


@pytest.fixture
def attach_network() -> Iterator[AttachNetwork]:
    """Plugs cards in; those that the test has not detached are taken away at its end."""
    with ExitStack() as stack:

        def attach(domain: Domain, **settings: str) -> AttachedNetwork:
            card = domain.attach_network(network_of(_keys(settings)))
            stack.callback(_take_card_away, domain, card)
            return card

        yield attach


def _take_card_away(domain: Domain, card: AttachedNetwork) -> None:
    if domain.state is DomainState.RUNNING and card in domain.parts.cards:
        domain.detach_network(card.lease.mac, force=True)


def _keys(settings: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in settings.items()}


def ready_made(name: str) -> Definition:
    """One of the definitions that come with the harness, such as ``pv``."""
    return load(GUESTS / f"{name}.yaml")
