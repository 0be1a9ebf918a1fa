"""Emoji: drawings that packages bring, their names, and edits from one drawing to another."""
