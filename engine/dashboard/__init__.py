"""The web page on the admin side: what waits, for whom and why; dead letters; pause and resume."""
