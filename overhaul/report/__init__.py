"""A run told: tables and curves."""
