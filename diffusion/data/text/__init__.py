"""Texts as arrays: what a network reads of a caption or an instruction."""
