"""
Someone is told of a trouble, once, and told when it is over: by log, webhook, Slack, e-mail or SNS; never in the way.

`kinds` says what troubles there are, `looking` finds those that stand in the store, `book` holds which are told, and
`desk` brings them to the ways out, each in a thread of its own.
"""
