"""The status port and its pages."""
