"""Database connections for the store and the SQL sinks: engines, errors, diagnostics."""
