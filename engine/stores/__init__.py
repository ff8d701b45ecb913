"""Where the lanes are kept: the same verbs over memory and over one SQLite file."""
