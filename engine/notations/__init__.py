"""The two notations, `${ }` and `{{ }}`: from the libraries' trees to Python functions, and what those call."""
