"""What became of each event, kept for a time beside the store, so that people can ask whether theirs arrived."""
