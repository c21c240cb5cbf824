"""The receiver for agents: its reading functions as tools of the Model Context Protocol."""
