"""The checks, a module for each concern."""
