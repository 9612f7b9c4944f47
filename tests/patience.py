PATIENCE = 60.0
"""Seconds until a test gives up what takes one or two on an idle machine."""
