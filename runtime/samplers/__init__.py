"""Sampler kernels: one module each, with a State, an Info, `init` and `build_kernel`."""
