"""Measured comparisons: the cost of our attacks and defenses, and their results beside those of other libraries.

``make benchmark`` and ``make peers`` run them. They are programs; nothing else in the project imports them.
"""
