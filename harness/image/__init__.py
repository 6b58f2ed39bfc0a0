"""From a recipe to what a guest boots from: kernel, initramfs, modules and SSH keys, in a content-addressed cache."""
