"""What an author of connectors runs: examples, preview, plan, coverage, cassettes, pages, new connectors."""
