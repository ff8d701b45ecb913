"""
How fast it is, beside what people would use instead: `python -m benchmarks [SECTION…] [--quick] [--write PAGE]`.

To write a section, add benchmarks/NAME.py; it is found by its `measure(quick …`. Its docstring is printed on the page.

    TITLE = "Mapping"
    def measure(quick: bool) -> Iterator[Comparison]:
        figures = alternate({"ours": ours, "jinja2": plain}, rounds=5, clock=CPU, least_s=0.05 if quick else 0.3)
        yield compare("the seed's Responsys record", figures, "ours", "jinja2", version("jinja2"), goal=at_least(4))

A contestant is a function that does some work and returns how many it did (or `Took(count, seconds)` where it timed
itself; `measuring.Beside` asks a process that did). See `measuring` for figures that are no rates, for goals without a
contestant (`measured`), and for a contestant that cannot be had here (`missing`); `competitors` for the packages of
others (airbyte-cdk, drt-core, huey, RudderStack's, Segment's), which live in environments of their own. Text below
a section's table goes to benchmarks/notes/NAME.md; at the end of the page stand profile.md (of the finished walk),
next.md (where the next 20 % would come from) and no-help.md (what did not help). `python -m benchmarks.sampled` writes
profile.md.
"""
