"""The tag of a shop's page: what `connect tag` writes, and the script it is made of."""
