"""The pytest plugin: fixtures, markers and reporting for tests on real domains."""
