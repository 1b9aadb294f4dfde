"""The wire formats of APIs, one file for each, and the providers that use them. Pure: no requests are sent here."""
