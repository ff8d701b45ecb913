"""What keeps a store in order: how full it is, what is old, its dead letters, its copy into another."""
