"""A client's first day with a CRM: its consent, whether we can log in, and what must exist there first."""
