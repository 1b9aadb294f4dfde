"""Claim due jobs, poll them, and save the results."""
