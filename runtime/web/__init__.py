"""The live page, metrics and health over HTTP."""
