"""Claim, poll, save."""
