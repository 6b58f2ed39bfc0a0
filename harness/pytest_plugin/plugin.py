"""Fixtures and reporting for tests on real domains.

``start_domain`` starts domains that end with the test, ``start_domain_for_module`` those that a module shares. When a
test fails, the report shows the last console lines of every domain it had, and where the logs are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

from harness.backend.launch import MODULE
from harness.domain.definition import Definition
from harness.domain.definition_file import load
from harness.domain.domain import Domain
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


def ready_made(name: str) -> Definition:
    """One of the definitions that come with the harness, such as ``pv``."""
    return load(GUESTS / f"{name}.yaml")
