"""What Xen's hypervisor would provide, on top of ivshmem: links, start info, grants, event channels."""
