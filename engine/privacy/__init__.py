"""What is personal or secret in an event, masked; and a person, forgotten."""
