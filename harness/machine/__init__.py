"""QEMU itself: accelerator, command line, process and QMP, and the monitor that notices its troubles."""
