"""What the container runtime executes and reads: the plugin (`aws-cni.c`), the conflist, and what puts them in place."""
