"""The measured comparisons: what the attacks and defenses cost, and how they stand beside other libraries'.

``make benchmark`` and ``make peers`` run them. They are programs: nothing else of the project imports them.
"""
