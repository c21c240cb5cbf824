"""The web process: receives Truto's POSTs, stores them, answers."""
