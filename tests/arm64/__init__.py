"""The runtime on an emulated ARM64 processor: `make test-arm64`."""
