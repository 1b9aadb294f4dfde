"""Settings, sources and credentials."""
