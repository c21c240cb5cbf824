"""Database connections for the store and the SQL sinks: engines, sessions, diagnoses, facts."""
