"""Text banks that come along, as data: ``builtin.csv``, one visual concept a line with its kind."""
