"""CUDA without a framework: the driver, the compiler, arrays on the device."""
