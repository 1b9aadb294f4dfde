"""The provider's API: requests, answers, pages."""
