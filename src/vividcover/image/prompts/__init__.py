"""Prompts: in layers, written out, ten at a time, and kept in a library. Needs no model and no network."""
