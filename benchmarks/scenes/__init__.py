"""Composed scenes: cut-outs moving over backgrounds, so that every caption and answer is exact."""
