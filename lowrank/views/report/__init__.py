"""Run records as one HTML file that works offline from disk."""
