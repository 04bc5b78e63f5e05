"""Compression methods: which tokens survive.

How many survive is `luvc.scheduling`'s business (`retained_*`); the modules here only select, on the
device, without host synchronisation.
"""
