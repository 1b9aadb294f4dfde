"""The status port: health, metrics and the status pages."""
