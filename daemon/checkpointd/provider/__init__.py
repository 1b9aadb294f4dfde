"""The provider's API: requests, pages of lists, and what each response means."""
