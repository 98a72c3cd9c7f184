"""Records and verdicts in the formats that other tools read: a module per format, all pure."""
