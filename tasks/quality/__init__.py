"""Stages `encoder` and `quality@NAME`: how near synthetic images are to real ones, and how varied."""
