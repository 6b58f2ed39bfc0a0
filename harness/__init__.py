"""Runs QEMU guests as domains, through emulated devices or through Xen's split drivers."""

__version__ = "0.1.0"
