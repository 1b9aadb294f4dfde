"""Sending the feed of changes to webhooks."""
