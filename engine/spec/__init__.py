"""The language: YAML text to typed, frozen specs, or to findings with their place."""
