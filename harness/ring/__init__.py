"""The layouts of Xen's I/O rings and the arithmetic of their indices; knows nothing of where the memory comes from."""
