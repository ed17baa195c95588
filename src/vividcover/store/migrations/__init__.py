"""Every schema that the database has had, in order. `tables.py` tells the current one; a test compares them."""

HEAD = "0003"
