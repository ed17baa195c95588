"""What the program is measured beside: an earlier prototype's recipes, rebuilt from their description."""
