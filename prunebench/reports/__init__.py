"""What a person or a script sees of a run: sentences, tables, block maps, notices.

``formats/`` has one module per output format. Nothing here judges or measures: a report words what
``verdicts`` decided. May import ``runs`` and everything below it.
"""
